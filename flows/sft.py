"""`sft-flow`: fine-tune the base model on conversations."""

from flows.chain import Chain
from flows.flow import lifecycle_flow


@lifecycle_flow("sft")
def sft_flow(chain: Chain) -> None:
    """Fine-tune the base model on conversations."""
    _ = chain.tuned
