"""`report-flow`: write the report card."""

from athanor.flows.chain import Chain
from athanor.flows.flow import over_preset
from athanor.flows.server.ui_artifacts import publish_report


@over_preset("report")
def report_flow(chain: Chain) -> None:
    """Write the report card."""
    chain.make("report")
    publish_report(chain.one("report"))
