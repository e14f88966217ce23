"""`evaluate-flow`: score the base and the fine-tuned model on the benchmarks."""

from athanor.flows.chain import Chain
from athanor.flows.flow import over_preset
from athanor.flows.server.ui_artifacts import publish_scores


@over_preset("evaluate")
def evaluate_flow(chain: Chain) -> None:
    """Score the base and the fine-tuned model on the benchmarks."""
    chain.make("evaluate")
    publish_scores(chain.all("evaluate"))
