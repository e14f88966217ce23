"""`data-flow`: acquire the text, make the tokenizer, write the token shards."""

from athanor.flows.chain import Chain
from athanor.flows.flow import over_preset


@over_preset("data")
def data_flow(chain: Chain) -> None:
    """Acquire the text, make the tokenizer, write the token shards."""
    chain.make("data")
