"""``runstream restore``: put runs of an archive back into Redis, after a lost one or to work on an old run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Any, NamedTuple

import typer

from runstream.cli.support.exit_codes import ExitCode
from runstream.cli.support.options import AsJson, open_archive, read_url
from runstream.cli.support.output import emit_json, print_table, say
from runstream.cli.support.progress_bar import showing_progress
from runstream.cli.support.run_names import complete_run, find_run
from runstream.connect import connect
from runstream.history.archived import ArchivedHistory
from runstream.model.errors import ConfigurationError, RunstreamError, StoreUnavailable
from runstream.repair.restore import PutBack, put_back
from runstream.stores.capabilities import Archive, part_of
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import Namespace

__all__ = ["EPILOG", "restore"]

EPILOG = """Examples:

runstream restore --from sqlite:archive.db --to redis://localhost

runstream restore run-42 --from jsonl:archive/ --to 'redis://localhost?namespace=dev' --whole"""


class _Done(NamedTuple):
    """What was done with a run: ``put`` is None for one that was refused, for the ``reason``."""

    run_id: str
    put: PutBack | None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        if self.put is None:
            return {"run_id": self.run_id, "outcome": "refused", "reason": self.reason}
        return {
            "run_id": self.run_id,
            "outcome": self.put.outcome,
            "last": str(self.put.last),
            "first_hot": self.put.first_hot,
        }


def restore(
    source: Annotated[
        str, typer.Option("--from", metavar="ARCHIVE", help="The archive, sqlite:PATH or jsonl:DIR.")
    ],
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Runs, by id or its beginning; without any, all of the archive.",
            autocompletion=complete_run,
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="REDIS",
            envvar="RUNSTREAM_URL",
            callback=read_url,
            help="The Redis store: redis://, rediss://, unix://, redis+sentinel://, redis+cluster:// or"
            " embedded:DIR. @FILE: the URL in that file.",
            show_default=False,
        ),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Put every event back, not only what an agent needs to go on.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put runs of an archive back into Redis: after a lost Redis, or to work on an old run.

    Offsets, checksums, snapshots, callers' keys, status, session and times are what they were; agents go on where
    the archive ends. Redis gets what they need for that, and the other events stay in the archive, unless --whole
    is given. Then the run is due, and the next drain settles it; a worker trims what it proves to be archived.

    Nothing that Redis has is overwritten. A run that it has as far as the archive, or further, is left as it is;
    one of which it has another history is refused, the others go on, and the exit code is 1. A retired run is
    made hot again. Each run is put back completely or not at all: killed at any point, the same command goes on.
    Branches, RUN~OFFSET-CHAIN, stay in the archive, but for those that are named.
    """
    began = time.monotonic()
    with ExitStack() as opened:
        archive = open_archive(opened, source, "--from")
        wanted = _wanted(archive, run)
        hot = opened.enter_context(connect(to))
        if part_of(hot, Namespace) is None:
            raise ConfigurationError("--to is the Redis side: a redis:, rediss:, unix: or embedded: URL")
        done = _restore(hot, archive, wanted, whole=whole)
    seconds = time.monotonic() - began
    refused = sum(one.put is None for one in done)
    if as_json:
        counts = {name: sum(_outcome(one) == name for one in done) for name in ("restored", "there already")}
        totals = {"restored": counts["restored"], "there_already": counts["there already"], "refused": refused}
        emit_json({"runs": [one.to_dict() for one in done], **totals, "seconds": round(seconds, 3)})
    else:
        columns = ["run", "what was done", "last", "first offset in Redis"]
        print_table(columns, [_row(one) for one in done], unfolded=("last",))
        for one in done:
            if one.put is None:
                say(f"refused: {one.reason}")
    if refused:
        raise typer.Exit(ExitCode.DOES_NOT_HOLD)


def _wanted(archive: Archive, run_ids: Sequence[str] | None) -> dict[str, int]:
    """The runs to put back, the first updated first, and how many events each has. A branch must be named.

    Raises:
        NoSuchRun: The archive does not have one that was named.
    """
    if run_ids:
        ids = list(archive.run_ids())
        named = (
            find_run(given, ids, f"{archive.location} has no run {given!r}; nothing was done") for given in run_ids
        )
        loaded = [ArchivedHistory.load(archive, run_id) for run_id in dict.fromkeys(named)]
        histories = [history for history in loaded if history is not None]
        refused = []
    else:
        found = dict(ArchivedHistory.load_all(archive))
        histories = [history for history in found.values() if history is not None and not _is_branch(history)]
        histories.sort(key=lambda history: history.header.updated_at)
        refused = [run_id for run_id, history in found.items() if history is None]
    wanted = {history.run_id: history.last.offset - history.first + 1 for history in histories}
    return wanted | dict.fromkeys(refused, 0)


def _is_branch(history: ArchivedHistory) -> bool:
    """Whether a run is a branch that gave way."""
    return history.header.parent is not None and not history.header.parent_identity


def _restore(hot: RunStore[Any, Any], archive: Archive, wanted: dict[str, int], *, whole: bool) -> list[_Done]:
    done = []
    with showing_progress("putting back", sum(wanted.values())) as advance:
        for run_id in wanted:
            try:
                done.append(_Done(run_id, put_back(hot, archive, run_id, whole=whole, on_progress=advance)))
            except StoreUnavailable:
                raise
            except RunstreamError as error:
                done.append(_Done(run_id, None, str(error)))
    return done


def _outcome(done: _Done) -> str:
    return "refused" if done.put is None else done.put.outcome


def _row(done: _Done) -> tuple[object, ...]:
    if done.put is None:
        return done.run_id, "refused", None, None
    return done.run_id, done.put.outcome, str(done.put.last), done.put.first_hot
