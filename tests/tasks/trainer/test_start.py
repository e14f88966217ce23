"""What a run starts from: its description, and a model in training."""

import pytest
import torch
from trainer_stop import Stop

from athanor.core.errors import UserError
from athanor.tasks.trainer.run import train
from athanor.tasks.trainer.start import read_spec, starting_model


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "run.json does not exist"),
        ("{", "Invalid JSON"),
        ('{"objective": "pretrain"}', r"run.json: key: Field required; .*train: Field required"),
    ],
)
def test_a_bad_description_is_one_line(tmp_path, content, complaint):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=complaint) as refused:
        train(tmp_path, Stop())
    assert "\n" not in str(refused.value)


def test_what_is_trained_from_a_checkpoint_is_in_training_like_what_is_new(make_run):
    base = make_run("base", train={"steps": 3})
    train(base, Stop())
    spec = read_spec(base)
    for one in (spec, spec.model_copy(update={"init_dir": str(base)})):
        assert starting_model(one, torch.device("cpu")).training
