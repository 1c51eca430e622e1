"""``runstream answer``: answer the question that a run waits with."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from runstream.cli.support.exit_codes import ExitCode
from runstream.cli.support.options import AsJson, HotUrl, open_existing
from runstream.cli.support.output import emit_json, print_table, say
from runstream.cli.support.run_names import RunName, run_named
from runstream.cli.support.value_texts import cut, value_text
from runstream.codec.json_facts import event_facts
from runstream.model.errors import ConfigurationError
from runstream.operations.filters import payload_of

__all__ = ["EPILOG", "answer"]

EPILOG = """Examples:

runstream runs --status paused

runstream answer run-42 yes

runstream answer run-42 --lane reviewer --value '{"ok": true, "budget": 40}'"""


def answer(
    run: RunName,
    text: Annotated[
        str | None, typer.Argument(metavar="ANSWER", help="The answer, as text.", show_default=False)
    ] = None,
    value: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="The answer as JSON (true, 3, {...}), instead.", show_default=False),
    ] = None,
    lane: Annotated[str | None, typer.Option(help="The lane that asks, where several do.")] = None,
    question: Annotated[str | None, typer.Option(metavar="ID", help="The question that is answered.")] = None,
    url: HotUrl = None,
    as_json: AsJson = False,
) -> None:
    """Answer the question that a run waits with; its agent goes on with the answer, also if it is started later.

    A question is answered once. Where somebody has answered it before with something else, that answer holds: it
    is shown, and the exit code is 1. `runstream runs --status paused` lists the runs that wait, with their
    questions.
    """
    wanted = _wanted(text, value)
    with open_existing(url) as store:
        run = run_named(store, run)
        recorded = store.answer(run, wanted, lane_id=lane, question_id=question)
    payload = payload_of(recorded.event)
    if as_json:
        emit_json({"run_id": run, **event_facts(recorded)})
    else:
        row = (
            run,
            payload["lane_id"],
            payload["question_id"],
            cut(value_text(payload["answer"])),
            recorded.offset,
        )
        columns = ["run", "lane", "question", "answer", "offset"]
        print_table(columns, [row], names=columns[:3])
    if payload["answer"] != wanted:
        say("somebody has answered it before: that answer holds")
        raise typer.Exit(ExitCode.DOES_NOT_HOLD)


def _wanted(text: str | None, value: str | None) -> Any:
    if (text is None) == (value is None):
        raise typer.BadParameter("give the answer as text, or as JSON with --value", param_hint="ANSWER")
    if value is None:
        return text
    try:
        return json.loads(value)
    except ValueError as error:
        raise ConfigurationError(f"--value {value!r:.80} is no JSON: {error}") from error
