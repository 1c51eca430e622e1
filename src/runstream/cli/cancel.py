"""``runstream cancel``: ask a run to stop."""

from __future__ import annotations

from typing import Annotated

import typer

from runstream.cli.support.options import AsJson, HotUrl, open_existing
from runstream.cli.support.output import emit_json, print_table
from runstream.cli.support.run_names import RunName, run_named
from runstream.codec.json_facts import event_facts

__all__ = ["EPILOG", "cancel"]

EPILOG = """Examples:

runstream cancel run-42 --reason "it is too expensive"

runstream tail run-42"""


def cancel(
    run: RunName,
    reason: Annotated[str, typer.Option(help="Why, for the agent and its log.", show_default=False)] = "",
    url: HotUrl = None,
    as_json: AsJson = False,
) -> None:
    """Ask a run to stop: its agent is told at its next event, or where it waits, and ends the run as cancelled.

    This returns once the request is kept; `runstream tail` shows how the run ends. A run whose agent does not run
    is told when it is started again. It must be an agent that works with open_run.
    """
    with open_existing(url) as store:
        run = run_named(store, run)
        recorded = store.request_cancel(run, reason)
    if as_json:
        emit_json({"run_id": run, **event_facts(recorded)})
    else:
        print_table(["run", "to be cancelled", "offset"], [(run, reason or "requested", recorded.offset)])
