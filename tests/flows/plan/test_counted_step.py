"""A preset's step on a named GPU: as many micro-batches as it has, of the rows that fit."""

from __future__ import annotations

import json

import pytest

from athanor.core.disk import home
from athanor.core.errors import UserError
from athanor.flows.plan.counted_step import counted_step
from athanor.models.device import gpu_of
from athanor.tasks.trainer.step.micro_batch import roofline_of

VOCABULARY = "model.vocab_size=1024"


def test_a_step_is_its_micro_batches_on_every_rank(small_preset):
    preset = small_preset(VOCABULARY, "runtime.micro_batch_rows=1")
    train = preset.pretrain
    step = counted_step(preset, "A100")
    one = roofline_of(preset.model, preset.runtime, gpu_of("A100"), 1, train.seq_len_tokens)
    assert (step.rows, step.micro_batches, step.micro_batch) == (1, train.batch_rows, one)
    assert step.time_s == pytest.approx(train.batch_rows * one.time_s)
    assert step.tokens_per_s == pytest.approx(one.tokens_per_s)
    two = counted_step(small_preset(VOCABULARY, "runtime.micro_batch_rows=1", "runtime.ranks=2"), "A100")
    assert two.time_s == pytest.approx(step.time_s / 2) and two.tokens_per_s == pytest.approx(2 * step.tokens_per_s)


def test_without_being_asked_the_rows_are_those_that_fit(small_preset):
    step = counted_step(small_preset(VOCABULARY), "H100")
    assert (step.rows, step.micro_batches) == (small_preset().pretrain.batch_rows, 1)


def test_the_json_has_every_number_and_what_was_assumed(small_preset):
    found = json.loads(json.dumps(counted_step(small_preset(VOCABULARY), "H100").json()))
    assert found["data_sheet"] == {"peak_flops_per_s": 989e12, "memory_bytes_per_s": 3.35e12}
    assert found["assumed"]["launch_s"] == 4e-6 and found["assumed"]["shares"]["product"] == 0.65
    kinds = found["micro_batch"]["by_kind"]
    assert sum(kind["time_s"] for kind in kinds.values()) == pytest.approx(found["micro_batch"]["time_s"])
    assert sum(kind["launches"] for kind in kinds.values()) == found["micro_batch"]["launches"]


def test_what_cannot_be_counted_is_refused_in_one_line(small_preset):
    (home() / "prices.yaml").parent.mkdir(parents=True, exist_ok=True)
    (home() / "prices.yaml").write_text("Foo 9000: {usd_per_hour: 1, memory_gib: 80}\n")
    for asked, on, message in (
        ((VOCABULARY,), "Foo 9000", "--on Foo 9000: its memory's bandwidth is not known; there are B200, H200, "),
        ((VOCABULARY,), "Foo", "--on Foo: no such GPU is known"),
        (("tokenizer.hub=o/tokenizer",), "H100", "model.vocab_size is unknown until its tokenizer is built; set it"),
    ):
        with pytest.raises(UserError, match=message):
            counted_step(small_preset(*asked), on)
