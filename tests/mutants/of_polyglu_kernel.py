"""Mutants of PolyGLU's Triton form, held by the kernel's own tests."""

from mutant import Mutant

TESTS = ("tests/kernels/test_polyglu.py",)
CHANGES = [
    ("tl.exp(a0 - top), tl.exp(a1 - top)", "tl.exp(a0), tl.exp(a1)", "softmax after the largest logit"),
    ("inverse = 1.0 / (e0 + e1 + e2 + e3)", "inverse = 1.0 / (e0 + e1 + e2)", "weights add up to one"),
    (
        "tl.store(y + at * width + column, mixed * v_x",
        "tl.store(y + at * width + column, mixed * u_x",
        "the value gates",
    ),
    ("dmixed = dy_x * v_x\n", "dmixed = dy_x * u_x\n", "derivative of the mix"),
    ("g1 * (1.0 - tanh * tanh)", "g1 * (1.0 - tanh)", "slope of tanh"),
    ("g2 * (sigmoid + silu * (1.0 - sigmoid))", "g2 * (sigmoid + silu * sigmoid)", "slope of SiLU"),
    ("g3 * (cdf + u_x * pdf)", "g3 * cdf", "slope of GELU"),
    ("column, dy_x * mixed, mask", "column, dy_x, mask", "derivative by the value"),
    ("sum1 += d1\n", "sum1 = d1\n", "the static part's gradient is a sum over positions"),
    (
        "tl.store(to + 1, tl.sum(d1))",
        "tl.store(to + 1, tl.max(d1))",
        "the dynamic part's gradient is a sum over neurons",
    ),
    ("(row * spans + first // POSITIONS) * 4 * width", "(row * spans) * 4 * width", "each span has sums of its own"),
    ("ddynamic + (at * blocks + block) * 4", "ddynamic + at * blocks * 4", "each block has sums of its own"),
    ("else ddynamic_BTNK.sum(2)\n", "else ddynamic_BTNK[:, :, 0]\n", "the blocks' sums are added"),
    ("dstatic_BKF = dstatic_BSKF.sum(1)", "dstatic_BKF = dstatic_BSKF[:, 0]", "the spans' sums are added"),
    (
        "static_row = 0 if len(static_BKF) == 1 else",
        "static_row = 0 if True else",
        "rows with static parts of their own",
    ),
    ("0 if length == 1 else len(ACTIVATIONS)", "len(ACTIVATIONS)", "one gate for the whole row"),
    ("    dy = dy if rows_of(dy) else dy.contiguous()\n", "", "a gradient of any strides"),
    ("return Cost(3 * one + logits", "return Cost(2 * one + logits", "read bytes, backward"),
]
MUTANTS = [Mutant("kernels/polyglu.py", old, new, f"PolyGLU in Triton: {what}", TESTS) for old, new, what in CHANGES]
