"""What a run starts from: its description."""

import pytest
from trainer_stop import Stop

from athanor.core.errors import UserError
from athanor.tasks.trainer.run import train


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "run.json does not exist"),
        ("{", "Invalid JSON"),
        ('{"objective": "pretrain"}', "run.json: key: Field required"),
    ],
)
def test_a_bad_description_is_one_line(tmp_path, content, complaint):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=complaint) as refused:
        train(tmp_path, Stop())
    assert "\n" not in str(refused.value)
