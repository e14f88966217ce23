"""Mutants of what a model's recipe or its decoding offers beside the usual."""

from mutant import Mutant

HUGINN = "tests/models/families/huginn"
DEFINITION = f"{HUGINN}/test_definition.py"
SWA_MLA = "tests/models/families/swa_mla/test_definition.py"


def _of(file: str, tests: str, *changes: tuple[str, str, str]) -> list[Mutant]:
    """Mutants of `models/<file>` that these test files must notice."""
    return [Mutant(f"models/{file}", old, new, mechanism, tuple(tests.split())) for old, new, mechanism in changes]


MUTANTS = [
    *_of(
        "families/huginn/model.py",
        DEFINITION,
        (
            "keys_at(context.row_key_B[:, None], column_1T)",
            "keys_at(context.row_key_B[:, None], context.position_BT)",
            "noise of each document in training",
        ),
        ("return s_BTD * e_BTD if", "return s_BTD + e_BTD if", "injection by a gate"),
        (
            'if self.injection == "none":\n            return s_BTD',
            "if 0:\n            return s_BTD",
            "no injection",
        ),
        (
            'if self.section.injection == "none":\n            return e_BTD',
            "if False:\n            pass",
            "first state",
        ),
        ("PackedSwiGLU(width, recipe.d_ff, 2 * width)", "nn.Linear(2 * width, width)", "injection by a layer"),
        ("is not None and not self.training:", "is not None:", "no noise in the states of training"),
        ("self.core.blocks[-1].ffn_sum_norm(disturbed", "(disturbed", "disturbed states are normed"),
        ("section.test_time_noise * self.state_std", "section.test_time_noise", "noise as large as first states"),
        (
            "row_key_B % len(recurrences)]",
            "torch.arange(len(row_key_B)) % len(recurrences)]",
            "a row's draw follows its key",
        ),
        ("rows, dtype=torch.int64, device=s_BTD.device", "rows[::-1], dtype=torch.int64", "rows come back in order"),
    ),
    *_of(
        "families/huginn/model.py",
        "tests/models/test_slices.py",
        (
            "row_key_B % len(recurrences)]",
            "torch.arange(len(row_key_B)) % len(recurrences)]",
            "a row's draw does not follow the slice",
        ),
    ),
    *_of(
        "families/huginn/recurrence.py",
        DEFINITION,
        ("for key in (step_key, *others.tolist())", "for key in [step_key] * draws", "draws of a step differ"),
    ),
    *_of(
        "families/huginn/state_noise.py",
        DEFINITION,
        ("(1.0 - share) * s_BTD", "s_BTD", "noise takes the place of state"),
        ("_FIRST_STREAM + step, s_BTD", "_FIRST_STREAM, s_BTD", "noise of each iteration"),
        ("cut=math.inf", "cut=3.0", "noise is normal"),
        ("keys_at(position_BT.new_zeros(1, 1), position_BT)", "position_BT", "key of the noise"),
        ("return largest / (step + 1)", "return largest / (step + 2)", "geometric course"),
        ("largest / math.sqrt(step + 1)", "largest / (step + 1)", "course of the square root"),
        ("1.0 - step / mean_recurrence", "1.0 - (step + 1) / mean_recurrence", "linear course"),
        ("2.0 * largest * float", "largest * float", "course by chance"),
    ),
    *_of(
        "families/huginn/cache.py",
        f"{HUGINN}/test_cache.py",
        ('in ("full", "skip")\n\n    def slot', 'in ("full",)\n\n    def slot', "skip hides what stopped"),
        ('if self.lookup.name == "randomized" and step > 0', "if False", "a randomized look-up"),
        ("torch.where(stopped_B1, (chance", "torch.where(stopped_B1 | True, (chance", "chance begins with a stop"),
        ("& (position_BS >= 0)", "", "other documents' stops do not count"),
        ("(chance_BS * taken_BS).long()", "(chance_BS * (step + 1)).long()", "steps that a position took"),
        (".clamp(max=step + 1)", "", "steps up to this one"),
        ("self.lookup.slot(step, layer), 1).view", "0, 1).view", "chance of each step"),
        ("piece.position_BT), position_BS)", "piece.position_BT), index_S[None])", "chance by place in the document"),
    ),
    *_of(
        "families/swa_mla/model.py",
        SWA_MLA,
        ("dropout(mixed_BTD, stream)", "mixed_BTD", "dropout of attention"),
        ("dropout(self.ffn(normed_BTD), stream + 1)", "self.ffn(normed_BTD)", "dropout of SwiGLU"),
        ("x_BTD = dropout(x_BTD, _EMBEDDED_STREAM)", "pass", "dropout of embedded tokens"),
        ("section.dropout if self.training else None", "section.dropout", "no dropout outside training"),
        ("_EMBEDDED_STREAM + 1 + 2 * layer", "_EMBEDDED_STREAM + 1", "masks of each layer"),
        ("self.label_smoothing = section.label_smoothing or 0.0", "pass", "label smoothing"),
        ("if section.logit_scale_in_training or not self.training:", "if True:", "scale outside training alone"),
        ("if section.logit_scale_in_training or not self.training:", "if not self.training:", "scale in training"),
        ("LOGIT_SCALE_WINDOW = 128", "LOGIT_SCALE_WINDOW = 127", "window of the scale"),
    ),
    *_of(
        "families/swa_mla/dropout.py",
        f"{SWA_MLA} tests/models/test_slices.py",
        ("keys_at(context.row_key_B[:, None], column_1T)", "keys_at(column_1T, column_1T)", "masks follow the row"),
    ),
    *_of(
        "families/swa_mla/scaled_window.py",
        SWA_MLA,
        ("self.rotate(k_BTGd, rope[1])", "self.rotate(k_BTGd, rope[0])", "scores are scaled once"),
        ('.div(window, rounding_mode="floor")', ".div(window)", "one factor for a window"),
        ("/ math.log(base)  #", "/ 1.0  #", "the first window has factor 1"),
    ),
    *_of(
        "skeleton.py",
        SWA_MLA,
        ("self.label_smoothing if self.training else 0.0", "self.label_smoothing", "held-out losses are not smoothed"),
    ),
    *_of(
        "checkpoints/layout.py",
        "tests/models/checkpoints/test_foreign.py",
        ("(name := theirs.format(layer)) not in found and", "(name := theirs) == '' and", "an incomplete export"),
    ),
    *_of(
        "checkpoints/foreign.py",
        "tests/models/checkpoints/test_foreign.py",
        ("if joined.numel() != math.prod(shape):", "if False:", "an export with other heads"),
    ),
    *_of(
        "families/hydra/recipe.py",
        "tests/models/families/hydra/test_recipe.py",
        ('"head_dim" not in shape.model_fields_set and', '"head_dim" in () and', "a latent as wide as the model"),
        ("COMPRESSION * shape.n_heads * shape.head_dim > shape.d_model", "True", "a default that compresses is taken"),
    ),
    *_of(
        "families/hydra/model.py",
        "tests/models/families/hydra/test_recipe.py",
        ('{"embedding": "recursion",', '{"embedding": "embedding",', "scales of the recursions' embeddings"),
    ),
]
