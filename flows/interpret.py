"""`interpret-flow`: measure the interpretability maps of the models."""

from flows.chain import Chain
from flows.flow import lifecycle_flow


@lifecycle_flow("interpret")
def interpret_flow(chain: Chain) -> None:
    """Measure the interpretability maps of the models."""
    _ = chain.maps
