"""Mutants of checkpoints that a preset starts from, and of the published ones that are read."""

from mutant import Mutant

_STAGE = "tests/tasks/test_checkpoint.py"
_START = "tests/tasks/trainer/test_start_from_checkpoint.py"
_LAYOUTS = "tests/models/families/vanilla/test_layouts.py"
_PLACE = "tests/tasks/test_model_place.py"


def _of(file: str, test: str, *changes: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(file, old, new, mechanism, (test,)) for old, new, mechanism in changes]


MUTANTS = [
    *_of(
        "tasks/checkpoint.py",
        _STAGE,
        ("weights_sha256=found.digests()", "weights_sha256=()", "the content of the weights is in the key"),
        ("if found.digests() != recipe.weights_sha256:", "if False:", "weights that changed are not built"),
        ("given: str = Field(exclude=True)", "given: str", "the place of the weights is not in the key"),
        ("if read[name].get(field) != own[name].get(field):", "if False:", "a section that contradicts is refused"),
        ("not _same_file(Path(path), found.tokenizer)", "False", "another tokenizer is refused"),
        ('"base" if preset.pretrain is None else "init"', '"init"', "without pretraining it is the base model"),
    ),
    *_of(
        "tasks/trainer/start.py",
        _START,
        (" and spec.init_dir is None:", ":", "pretraining starts from the checkpoint"),
        ("model.float().train()", "model.train()", "half precision is trained in fp32"),
    ),
    *_of(
        "tasks/trainer/run.py",
        _START,
        (
            "self._model.schedule(self._course.progress(step) if self._spec.init_dir is None else 1.0)",
            "self._model.schedule(self._course.progress(step))",
            "the model's schedules stay where they ended",
        ),
    ),
    *_of(
        "models/families/vanilla/layouts.py",
        _LAYOUTS,
        ("return 1.0 + gain_D.float()", "return gain_D.float()", "Gemma's gains are one more"),
        ("return 1.0 + gain_D.float()", "return (1.0 + gain_D).float()", "summed in fp32"),
        ('{f"h.{{}}.{name}.weight": Tensor.t for name in _GPT_2_LINEARS}', "{}", "GPT-2's matrices are turned"),
        ('rope.get("rope_theta", config.get("rope_theta", 10_000.0))', "10_000.0", "rotations have the base said"),
        ('rope_type="default", partial_rotary_factor=1.0', "partial_rotary_factor=1.0", "scaled rotations are refused"),
    ),
    *_of(
        "tasks/model_place.py",
        _PLACE,
        ("reverse=True", "reverse=False", "the newest report counts"),
        ("if len(found) != 1:", "if not found:", "a name that means several is refused"),
        ('stage in ("", a.stage)', "True", "a stage before the preset's name asks for that model"),
    ),
]
