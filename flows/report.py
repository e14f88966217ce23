"""`report-flow`: write the report card."""

from flows.chain import Chain
from flows.flow import lifecycle_flow
from flows.ui import publish_report


@lifecycle_flow("report")
def report_flow(chain: Chain) -> None:
    """Write the report card."""
    publish_report(chain.report)
