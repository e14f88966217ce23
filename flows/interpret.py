"""`interpret-flow`: measure the interpretability maps of the models."""

from athanor.flows.chain import Chain
from athanor.flows.flow import over_preset


@over_preset("interpret")
def interpret_flow(chain: Chain) -> None:
    """Measure the interpretability maps of the models."""
    chain.make("interpret")
