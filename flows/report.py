"""`report-flow`: write the report card."""

from flows.chain import Chain
from flows.flow import over_preset
from flows.ui import publish_report


@over_preset("report")
def report_flow(chain: Chain) -> None:
    """Write the report card."""
    publish_report(chain.report)
