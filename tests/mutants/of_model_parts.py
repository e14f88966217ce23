"""Mutants of `models` that other tests hold than the written-out definitions of the families."""

from mutant import Mutant

MUTANTS = [
    *(
        Mutant(file, old, new, mechanism, ("tests/models/blocks/test_norm.py",))
        for file, old, new, mechanism in (
            (
                "models/blocks/norm.py",
                "autocast_dtype(x) if self.before",
                "None if self.before",
                "a norm rounds for all",
            ),
            ("kernels/precision.py", "x.dtype == torch.float64 or not", "not", "autocast leaves fp64 as it is"),
            ("kernels/precision.py", "return torch.get_autocast", "return None and torch.get_autocast", "of autocast"),
        )
    ),
    Mutant(
        "models/families/swa_mla/latent.py",
        "Heads(sum(self.dims), self.out.in_features // self.heads)",
        "Heads(sum(self.dims), sum(self.dims))",
        "the log knows the width of latent values",
        ("tests/models/test_attending.py",),
    ),
    Mutant(
        "models/blocks/attention.py",
        "Heads(self.head_dim, self.head_dim, self.cap, self.sink)",
        "Heads(self.head_dim, self.head_dim)",
        "the log knows caps and sinks",
        ("tests/models/test_attending.py",),
    ),
    Mutant(
        "models/families/huginn/cache.py",
        "left = replace(bounds, among_BTS=present_BTS)",
        "left = bounds",
        "the look-up that hides positions",
        ("tests/models/families/huginn/test_decoding.py",),
    ),
    Mutant(
        "models/families/huginn/model.py",
        "span = replace(span, packed=None)",
        "span = span",
        "a packed row whose positions are decoded one by one",
        ("tests/models/families/huginn/test_decoding.py", "tests/models/families/huginn/test_cache.py"),
    ),
    Mutant(
        "models/families/huginn/probes.py",
        "(span.doc_start_BT[:, 1:] < torch.arange(1,",
        "(span.doc_start_BT[:, 1:] <= torch.arange(1,",
        "loss by depth is not of a document's first token",
        ("tests/models/families/huginn/test_probes.py",),
    ),
    Mutant(
        "models/blocks/sliding_window.py",
        "key_BS=ring_BS)",
        "key_BS=None)",
        "keys of a ring stand where they were written",
        ("tests/models/blocks/test_sliding_window.py",),
    ),
]
