"""What a report works out from its inputs, once: its summary, its sections and its figures are drawn from the same."""

from __future__ import annotations

from dataclasses import dataclass

from athanor.reports.inputs import ReportInputs
from athanor.reports.log import Log, Mix
from athanor.reports.scores import Scores, scores_of


@dataclass(frozen=True)
class Findings:
    """The inputs, and the logs, the data mix and the scores in them."""

    inputs: ReportInputs
    pretraining: Log
    tuning: Log
    mix: Mix | None
    scores: Scores

    @classmethod
    def of(cls, inputs: ReportInputs) -> Findings:
        """Work them out."""
        pretraining, tuning = Log(inputs.pretrain_metrics), Log(inputs.sft_metrics)
        mix = Mix.of(pretraining, inputs.mixture, inputs.pretrain_steps)
        return cls(inputs, pretraining, tuning, mix, scores_of(inputs.evaluations))
