"""`lifecycle-flow`: from raw text to the report card: every stage, in order."""

from athanor.flows.chain import Chain
from athanor.flows.flow import over_preset
from athanor.flows.server.ui_artifacts import publish_report, publish_scores


@over_preset("lifecycle")
def lifecycle_flow(chain: Chain) -> None:
    """From raw text to the report card: every stage, in order."""
    chain.make("lifecycle")
    publish_scores(chain.all("evaluate"))
    publish_report(chain.one("report"))
