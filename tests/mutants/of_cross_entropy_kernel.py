"""Mutants of the head's Triton pass, held by the kernel's own tests."""

from mutant import Mutant

TESTS = ("tests/kernels/test_cross_entropy.py",)
CHANGES = [
    ("total = total * tl.exp(largest - new_largest) + tl.sum", "total = total + tl.sum", "online rescaling"),
    ("new_largest = tl.maximum(largest, tl.max(bounded, 0))", "new_largest = 0.0", "largest logit is taken off"),
    ('bounded = tl.where(column < classes, x, -float("inf"))', "bounded = x", "padding is no class"),
    ("loss += smoothing * (chosen - summed / classes)", "loss += smoothing * chosen", "smoothing in the loss"),
    ("wanted = smoothing / classes + tl.where", "wanted = tl.where", "smoothing in the gradient"),
    ("tl.where(column == label, 1.0 - smoothing, 0.0)", "tl.where(column == label, 1.0, 0.0)", "smoothed target"),
    ("(tl.exp(x - normaliser) - wanted) * slope", "tl.exp(x - normaliser) - wanted", "slope of the cap"),
    ("tl.where(column < classes, gradient, 0.0)", "gradient", "padding has no gradient"),
    ("return cap * bent, 1.0 - bent * bent", "return cap * bent, 1.0 - bent", "derivative of tanh"),
    ("return cap * bent, 1", "return bent, 1", "cap"),
    ("    if label == IGNORE:\n", "    if label == IGNORE - 1:\n", "ignored positions"),
    (
        "        if GRADIENT:\n            for start in range(0, stride, BLOCK):\n                nothing",
        "        if GRADIENT and CAPPED:\n            for start in range(0, stride, BLOCK):\n                nothing",
        "ignored positions get no gradient",
    ),
    (
        "        if GRADIENT:\n            for start in range(0, stride, BLOCK):\n                column",
        "        if True:\n            for start in range(0, stride, BLOCK):\n                column",
        "without a gradient logits are only read",
    ),
    ("missing = -len(weight_VD) % LANE", "missing = 0", "padding of classes"),
    ("return Cost(2 * logits * element_bytes", "return Cost(logits * element_bytes", "logits are read twice"),
    ("if (dtype := products_dtype(h)) not in STORED or weight.dtype not in STORED:", "if False:", "fp64 is torch's"),
]
MUTANTS = [
    Mutant("kernels/cross_entropy.py", old, new, f"cross-entropy in Triton: {w}", TESTS) for old, new, w in CHANGES
]
