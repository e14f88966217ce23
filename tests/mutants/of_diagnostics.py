"""Mutants of what models say of themselves, in training and in maps."""

from mutant import Mutant

_DIAGNOSTICS = "tests/models/test_diagnostics.py"
_ENGINES = "tests/tasks/trainer/engines/test_engines.py"
_HYDRA = "tests/models/families/hydra"
_POLYCHROMATIC = "tests/models/families/polychromatic"


def _of(file: str, tests: tuple[str, ...], *changes: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(file, old, new, mechanism, tests) for old, new, mechanism in changes]


MUTANTS = [
    *_of(
        "models/tally.py",
        ("tests/models/test_tally.py",),
        ("torch.where(counted.reshape(-1, 1), values_NP, 0.0).sum(0)", "values_NP.sum(0)", "padding is in no sum"),
        ("counted.sum().double()[None]", "counted.new_full((1,), counted.numel()).double()", "padding is in no count"),
        ("values.detach().double()", "values.detach().float()", "small values do not vanish beside their sum"),
        ("self._totals[name] + total if", "total if", "the slices of a step add up"),
        ("total(torch.cat(list(self._totals.values())))", "torch.cat(list(self._totals.values()))", "ranks add up"),
        (
            "strict=True)\n        return {name: (one[:-1] / one[-1]).tolist() for name, one in found if one[-1] > 0}",
            "strict=True)\n        return {name: (one[:-1] / one[-1]).tolist() for name, one in found}",
            "what nothing counted for has no mean",
        ),
    ),
    *_of(
        "models/skeleton.py",
        (_DIAGNOSTICS,),
        ("counted_BT if self.training else None", "counted_BT", "evaluation tallies nothing"),
    ),
    *_of(
        "tasks/trainer/step/step.py",
        ("tests/tasks/trainer/step/test_step.py",),
        ("tally.absorb(loss.tally)", "tally = loss.tally", "a step tallies all slices, not the last"),
    ),
    *_of(
        "tasks/trainer/step/step.py",
        (f"{_ENGINES}::test_conversations_of_uneven_length_teach_ranks_what_they_teach_one_process",),
        ("tally.means(self.engine.world.sum)", "tally.means(lambda totals: totals)", "a step tallies all ranks"),
    ),
    *_of(
        "models/maps.py",
        (f"{_HYDRA}/test_probes.py",),
        ("int((written_BT > 0).sum())", "written_BT.numel()", "attention is averaged over what it is computed for"),
        ("if share < UNUSED_SHARE", "if share < -1", "an unused choice is named"),
    ),
    *_of(
        "models/families/hydra/model.py",
        (f"{_HYDRA}/test_model.py",),
        (
            "choices_of_layer, context.tallied_BT)",
            "choices_of_layer, context.tallied_BT | True)",
            "padding routes nowhere",
        ),
        ("square - mean * mean", "square", "a variance is about the step's mean"),
        ('f"mod_gate {place}"', '"mod_gate 0"', "a variance is that of one block"),
        ('["expert_load_min"].append(min(parts))', '["expert_load_min"].append(max(parts))', "the idlest expert"),
    ),
    *_of(
        "models/families/hydra/moe.py",
        (f"{_HYDRA}/test_moe.py", _DIAGNOSTICS),
        ("self.one(expert, x_ND.to(", "self.one(0, x_ND.to(", "each expert answers for itself"),
        (
            "nth_BT = counted_BT.cumsum(1)",
            "nth_BT = (counted_BT | True).cumsum(1)",
            "experts are not compared on padding",
        ),
        ("before_S < nth_BT[:, -1:])", "before_S < 1 + nth_BT[:, -1:])", "a short row has few tokens to compare on"),
        ("y_END.sum(0).square().sum(-1) -", "y_END.sum(0).square().sum(-1) - count -", "copies do not diverge"),
    ),
    *_of(
        "models/families/hydra/probes.py",
        (f"{_HYDRA}/test_probes.py",),
        ("block.mor is not None and block.mor.mixes_all", "False", "mixed depths are called so"),
    ),
    *_of(
        "models/families/polychromatic/polyglu.py",
        (f"{_POLYCHROMATIC}/test_model.py",),
        ("(counted_BT * torch.arange(", "((counted_BT | True) * torch.arange(", "the last token is no padding"),
        ("entropy(dynamic_BTK / tau)", "entropy(dynamic_BTK)", "contexts have the temperature of the step"),
    ),
    *_of(
        "models/families/polychromatic/model.py",
        (f"{_POLYCHROMATIC}/test_model.py",),
        ("if of_rows else counted_BT", "if of_rows else counted_BT | True", "padding has no entropy"),
        ("row_B = counted_BT.any(1)", "row_B = counted_BT.any(1) | True", "a row of padding has no mixture"),
        ('f"activation_share {layer}"', '"activation_share 0"', "the smallest share is that of one layer"),
    ),
    *_of(
        "models/families/huginn/model.py",
        (_DIAGNOSTICS,),
        ("counted_BT[:, 1:] & counted_BT[:, :-1]", "counted_BT[:, :-1]", "neighbours that both count"),
        ("s_BTD.norm(dim=-1), counted_BT)", "s_BTD.norm(dim=-1), counted_BT | True)", "padding does not move"),
    ),
    *_of(
        "tasks/trainer/observers/collapse.py",
        ("tests/tasks/trainer/observers/test_collapse.py",),
        ("len(shares) < MEMORY_STEPS or", "", "no verdict before the memory is full"),
        ("_inherited(scene.spec.init_dir, self._names)", "[]", "what had collapsed before is known"),
        ("self._collapsed.append(name)", "pass", "said once"),
        (
            'return {"smallest_shares": self._shares, ',
            'return {"smallest_shares": {name: [] for name in self._names}, ',
            "shares are remembered over an interruption",
        ),
    ),
]
