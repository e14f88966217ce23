"""Mutants of SwiGLU's Triton form, held by the kernel's own tests."""

from mutant import Mutant

TESTS = ("tests/kernels/test_swiglu.py",)
CHANGES = [
    ("u_x * tl.sigmoid(u_x) * v_x, mask=inside", "v_x * tl.sigmoid(v_x) * u_x, mask=inside", "gate and value"),
    ("(1.0 + u_x * (1.0 - gate))", "(1.0 + u_x * gate)", "derivative of the gate"),
    ("dy_x * u_x * gate, mask=inside", "dy_x * u_x, mask=inside", "derivative by the value"),
    ("tl.store(y + row * width + column, u_x", "tl.store(y + row * u_stride + column, u_x", "rows of the result"),
    (
        "v_stride + column, mask=inside).to(tl.float32)\n    tl.store",
        "width + column, mask=inside).to(tl.float32)\n    tl.store",
        "rows of an argument lie apart",
    ),
    ("    dy = dy if rows_of(dy) else dy.contiguous()\n", "", "a gradient of any strides"),
    ("if u.shape != v.shape or u.dtype != v.dtype:", "if u.shape != v.shape:", "arguments of two dtypes"),
    ("if rows_of(u) is None or rows_of(v) is None:", "if rows_of(u) is None and rows_of(v) is not None:", "strides"),
    ("Cost(2 * u.numel() * u.element_size(), u", "Cost(u.numel() * u.element_size(), u", "read bytes, forward"),
    ("Cost(3 * u.numel() * u.element_size(), 2 *", "Cost(3 * u.numel() * u.element_size(), 3 *", "written, backward"),
]
MUTANTS = [Mutant("kernels/swiglu.py", old, new, f"SwiGLU in Triton: {what}", TESTS) for old, new, what in CHANGES]
