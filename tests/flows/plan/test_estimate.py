"""What a stage says of its cost becomes seconds and bytes, from what is built where something is."""

from __future__ import annotations

import pytest

from athanor.flows.plan.estimate import Estimator
from athanor.flows.plan.machine import Machine
from athanor.flows.plan.survey import Survey
from athanor.tasks.cost import SHARDS_SHARE, TOKENIZE_BYTES_PER_S, TrainingCost

H100 = Machine("H100", "cuda", 1, 80 << 30, 989e12, 3.0, "given")


def estimator(preset) -> Estimator:
    survey = Survey(preset)
    survey.needed_by("lifecycle")
    return Estimator(survey, H100)


def estimate(found: Estimator, stage: str, member: str):
    """The estimate of one artifact."""
    return found.estimate(found.survey.surveyed(found.survey.one(stage, member)))


def test_the_stages_that_train_and_no_others_cost_training(small_preset):
    found = estimator(small_preset("model.vocab_size=1024"))
    for stage in found.survey.stages:
        assert isinstance(found.cost(stage.artifact), TrainingCost) == stage.record.trains


def test_what_reads_a_text_takes_as_long_as_the_text_and_a_built_one_is_known(small_preset, publish):
    found = estimator(small_preset("data.sources.stem.max_bytes=6000000"))
    assert estimate(found, "tokenize", "stem").wall_s == pytest.approx(4.1e6 / TOKENIZE_BYTES_PER_S + 1)
    publish(found.survey.surveyed(found.survey.one("acquire", "stem")))
    built = estimate(found, "tokenize", "stem")
    assert built.wall_s == pytest.approx(1_000_000 / TOKENIZE_BYTES_PER_S + 1)
    assert built.disk_bytes == SHARDS_SHARE * 1_000_000


def test_what_took_its_time_before_takes_it_again_for_as_much_text(small_preset, publish):
    stem = lambda size: f"data.sources.stem.max_bytes={size}"  # noqa: E731
    before = estimator(small_preset(stem(1_000_000)))
    publish(before.survey.surveyed(before.survey.one("acquire", "stem")), wall_s=30.0)
    again = estimate(estimator(small_preset(stem(2_000_000))), "acquire", "stem")
    assert (again.wall_s, again.source) == (pytest.approx(60.0), "measured before")
    assert estimate(estimator(small_preset(stem(4_000_000))), "acquire", "stem").source == "assumed"


def test_a_source_without_bounds_takes_unknown_time_and_so_does_what_reads_it(small_preset):
    found = estimator(small_preset("data.sources.math={hub: o/math, max_documents: null}"))
    for stage in ("acquire", "tokenize"):
        unknown = estimate(found, stage, "math")
        assert (unknown.wall_s, unknown.source) == (None, "unknown: set max_bytes to bound the source")


def test_a_benchmark_takes_its_reading_and_its_decoding(small_preset):
    def of(limit: int):
        found = estimator(small_preset(f"evaluate.tasks.word-problems.limit={limit}"))
        return estimate(found, "evaluate", "word-problems-base")

    assert of(32).source == "assumed" and of(32).wall_s < of(64).wall_s
