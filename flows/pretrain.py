"""`pretrain-flow`: train the base model on the mixture of the sources."""

from athanor.flows.chain import Chain
from athanor.flows.flow import over_preset


@over_preset("pretrain")
def pretrain_flow(chain: Chain) -> None:
    """Train the base model on the mixture of the sources."""
    chain.make("pretrain")
