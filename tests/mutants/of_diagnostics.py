"""Mutants of what models say of themselves, in training and in maps."""

from mutant import Mutant

_DIAGNOSTICS = "tests/models/test_diagnostics.py"
_HYDRA = "tests/models/families/hydra"


def _of(file: str, tests: tuple[str, ...], *changes: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(file, old, new, mechanism, tests) for old, new, mechanism in changes]


MUTANTS = [
    *_of(
        "models/maps.py",
        (_DIAGNOSTICS,),
        ("if self.latest_counted_BT is None:", "if True:", "means leave padding out"),
    ),
    *_of(
        "models/maps.py",
        (f"{_HYDRA}/test_probes.py",),
        ("int((written_BT > 0).sum())", "written_BT.numel()", "attention is averaged over what it is computed for"),
        ("if share < UNUSED_SHARE", "if share < -1", "an unused choice is named"),
    ),
    *_of(
        "models/families/hydra/model.py",
        (_DIAGNOSTICS,),
        ("choices.load(counted_BT)", "choices.load()", "padding loads no expert"),
        ("mean(routed.depths.depth_BT)", "routed.depths.depth_BT.mean()", "padding has no depth"),
        ("mean((gate_BT - mean(gate_BT)).square())", "gate_BT.var(correction=0)", "padding has no variance"),
    ),
    *_of(
        "models/families/hydra/moe.py",
        (f"{_HYDRA}/test_moe.py", _DIAGNOSTICS),
        ("self.one(expert, x_ND.to(", "self.one(0, x_ND.to(", "each expert answers for itself"),
        ("torch.where(counted_N, 1.0 - cosine_N, 0.0)", "(1.0 - cosine_N)", "experts are not compared on padding"),
        ("y_END.sum(0).square().sum(-1) -", "y_END.sum(0).square().sum(-1) - count -", "copies do not diverge"),
    ),
    *_of(
        "models/families/hydra/probes.py",
        (f"{_HYDRA}/test_probes.py",),
        ("block.mor is not None and block.mor.mixes_all", "False", "mixed depths are called so"),
    ),
    *_of(
        "models/families/polychromatic/model.py",
        (_DIAGNOSTICS,),
        ("if counted_BT is None or dynamic_BTK.shape[1] == 1:", "if True:", "the last token is no padding"),
        ("else self.counted_mean(entropy_BT)", "else entropy_BT.mean()", "padding has no entropy"),
    ),
    *_of(
        "models/families/huginn/model.py",
        (_DIAGNOSTICS,),
        ("counted_BT[:, 1:] & counted_BT[:, :-1]", "counted_BT[:, :-1]", "neighbours that both count"),
        ("self.counted_mean(moved_BT)", "moved_BT.mean()", "padding does not move"),
    ),
    *_of(
        "tasks/trainer/observers/collapse.py",
        ("tests/tasks/trainer/observers/test_collapse.py",),
        ("len(shares) == MEMORY_STEPS and", "", "no verdict before the memory is full"),
        ("self._collapsed.append(name)", "pass", "said once"),
        (
            'return {"smallest_shares": self._shares, ',
            'return {"smallest_shares": {name: [] for name in self._names}, ',
            "shares are remembered over an interruption",
        ),
    ),
]
