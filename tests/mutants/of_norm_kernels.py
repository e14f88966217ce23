"""Mutants of the Triton kernels of norms, held by the kernels' own tests."""

from mutant import Mutant


def _of(name: str, tests: str, *changes: tuple[str, str, str]) -> list[Mutant]:
    files = tuple(f"tests/kernels/test_{test}.py" for test in tests.split())
    return [Mutant(f"kernels/{name}.py", old, new, mechanism, files) for old, new, mechanism in changes]


MUTANTS = [
    *_of(
        "rms_norm_triton",
        "rms_norm",
        (
            "            y *= gain[None, :]\n        tl.store",
            "            y *= 1.0\n        tl.store",
            "the kernel's gain",
        ),
        (
            "tl.sum(x * x, axis=1) / channels + eps)[:, None]\n        if",
            "tl.sum(x * x, axis=1) / channels)[:, None]\n        if",
            "eps of the kernel's norm",
        ),
        (
            "tl.sum(x * x, axis=1) / channels + eps)[:, None]\n        normed",
            "tl.sum(x * x, axis=1) / channels)[:, None]\n        normed",
            "eps in the backward pass",
        ),
        ("            x = stored.to(tl.float32)\n", "", "the stored sum is what is normed"),
        ("dx = root * (dy - normed * (", "dx = root * (dy - 0.0 * (", "the gradient through the statistics"),
        ("dx += tl.load(dtotal_ptr", "dx = tl.load(dtotal_ptr", "the sum's gradient is added to the norm's"),
        ("dgain += dy * normed", "dgain = dy * normed", "the gain's gradient sums over all tiles"),
        ("dy *= gain[None, :]", "dy *= 1.0", "the gain in the gradient of x"),
        ("parts_PD.sum(0)", "parts_PD[0]", "the gain's gradient sums over all programs"),
    ),
    *_of(
        "rms_norm",
        "rms_norm",
        (
            "    if dy is None:\n        dy = torch.zeros_like(total)\n",
            "",
            "a sum may be read whose norm is not",
        ),
        ("2 * max(of_inputs) + x.numel()", "max(of_inputs) + x.numel()", "the record counts all that is read"),
        (
            "max(size_bytes(x), size_bytes(branch)) + x.numel()",
            "2 * x.numel()",
            "the record counts all that is written",
        ),
        ("dtype = dtype or x.dtype", "dtype = x.dtype", "the dtype that is asked for"),
        ("    dtype = dtype or torch.promote_types", "    dtype = torch.promote_types", "that of the norm of a sum"),
    ),
    *_of(
        "row_tiles",
        "rms_norm dynamic_tanh",
        ("return cls(-(-rows // rows_each)", "return cls(rows // rows_each", "all rows have a program"),
        ("rows_each = max(least_rows, ", "rows_each = max(1, ", "programs share out what belongs to the channels"),
        ("rows_ND if rows_ND.stride(1) == 1 else rows_ND.contiguous()", "rows_ND", "channels are neighbours"),
    ),
    *_of(
        "dynamic_tanh",
        "dynamic_tanh",
        ("size < 0.25", "size < 0.0", "the series near zero"),
        ("tl.where(x < 0, -quotient, quotient)", "quotient", "sign of the quotient"),
        ("4.0 * shrunk / ((1.0 + shrunk) * (1.0 + shrunk))", "1.0 - tanh * tanh", "the slope far from zero"),
        ("dalpha += u * x", "dalpha = u * x", "alpha's gradient sums over all tiles"),
        ("dbias += dy", "dbias = dy", "the bias's gradient sums over all tiles"),
        ("dx = alpha * u", "dx = u", "alpha in the gradient of x"),
    ),
]
