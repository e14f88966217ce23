"""Mutants of how HYDRA's thresholds are met in training, and kept to."""

from mutant import Mutant


def _of(file: str, *changes: tuple[str, str, str]) -> list[Mutant]:
    path, tests = f"models/families/hydra/{file}", ("tests/models/families/hydra/test_routing.py",)
    return [Mutant(path, old, new, mechanism, tests) for old, new, mechanism in changes]


MUTANTS = [
    *_of(
        "routing.py",
        ("return logit_BT + self.jitter *", "return logit_BT + 0.0 *", "equal tokens do not pass or fail at once"),
        ("if not self.training or row_key_B", "if row_key_B", "no noise in serving"),
        ("truncated_normal(row_key_B, self.stream", "truncated_normal(row_key_B * 0, self.stream", "noise of the row"),
        ("competing_N = met_BT.detach()", "competing_N = logit_BT.detach()", "the share is that of noisy logits"),
        ("(1.0 / (self.calibrations + 1.0)).clamp(min=CALIBRATION_RATE)", "1.0", "thresholds are running means"),
        ("counted_R, competing_R = total(", "counted_R, competing_R = (", "all ranks set the share"),
        ("met_BT.detach().masked_fill(~candidates_BT, -math.inf)", "met_BT.detach()", "padding moves no threshold"),
    ),
    *_of("block.py", ("place * (1 + section.recursions)", "place", "noise of its own for every router")),
    *_of(
        "mor.py",
        ("first_stream + r) for r", "first_stream) for r", "noise of its own for every recursion"),
    ),
]
