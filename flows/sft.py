"""`sft-flow`: fine-tune the base model on conversations."""

from athanor.flows.chain import Chain
from athanor.flows.flow import over_preset


@over_preset("sft")
def sft_flow(chain: Chain) -> None:
    """Fine-tune the base model on conversations."""
    chain.make("sft")
