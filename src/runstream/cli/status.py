"""``runstream status``: show how a namespace stands, and whether the drain keeps up."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import typer
from rich.table import Table

from runstream.cli.support.exit_codes import ExitCode
from runstream.cli.support.options import AsJson, Url, open_existing
from runstream.cli.support.output import ago, bytes_text, console, counted, emit_json, make_table, spaced
from runstream.cli.support.server_start import START_SECONDS, StartTimeout, wait_for_server
from runstream.cli.support.watch import watch_with
from runstream.model.errors import ConfigurationError
from runstream.model.protocols import Sink
from runstream.stores.capabilities import HoldsForeign, part_of
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import Namespace
from runstream.stores.redis.operations.admin.alarms import Alarm, alarms_of
from runstream.stores.redis.operations.admin.held import HeldRuns, why_held
from runstream.stores.redis.operations.admin.status import NamespaceStatus, WorkerReport

__all__ = ["EPILOG", "status"]

EPILOG = """Examples:

runstream status --url 'redis://localhost?namespace=dev' --archive sqlite:archive.db

runstream status --watch --every 5

runstream status --check --max-age 120

runstream status --json | jq .oldest_due_seconds"""

_MOST_RUNS = 10_000  # looked at for what is archived and still in Redis: half a second
_SHOWN_RUNS = 5


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found: the status of a namespace, or else the counts of an archive; and what the archives hold."""

    namespace: NamespaceStatus | None
    counts: dict[str, Any]
    contents: Sequence[dict[str, Any]] | None = None
    alarms: Sequence[Alarm] = ()
    held: HeldRuns | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        facts = self.counts
        if self.namespace is not None:
            facts = {**asdict(self.namespace), "alarms": [alarm._asdict() for alarm in self.alarms]}
        if self.namespace is not None and self.held is not None:
            facts["held"] = _held_facts(self.held, self.namespace.trims)
        return facts if self.contents is None else {**facts, "contents": self.contents}

    def tables(self) -> Iterator[Table]:
        """All of it, for people."""
        if self.namespace is None:
            yield _fact_table(self.counts)
        else:
            if self.alarms:
                yield make_table(["alarm", "reason"], self.alarms)
            yield from _namespace_tables(self.namespace, self.held)
        if self.contents is not None:
            columns = ["location", "runs", "events", "quarantined"]
            yield make_table(columns, [[held[name] for name in columns] for held in self.contents])
        held = [self.counts] if self.contents is None else self.contents
        yield from _foreign_tables([one for one in held if "foreign" in one])


@dataclass(slots=True)
class _Poller:
    """Polls a store and archives; what it opens stays open until a poll fails."""

    url: str | None
    archives: Sequence[str] | None
    max_age: float
    _opened: ExitStack = field(default_factory=ExitStack)
    _stores: list[RunStore[Any, Any]] = field(default_factory=list)

    def poll(self) -> _Found:
        """Read the status of all. Raises what opening and reading a store raise; it may be called again."""
        try:
            if not self._stores:
                self._stores = [self._opened.enter_context(open_existing(self.url))]
                self._stores += [self._opened.enter_context(open_existing(url)) for url in self.archives or ()]
            store, *archives = self._stores
            contents = [_contents(archive) for archive in archives] if self.archives else None
            namespace = part_of(store, Namespace)
            if namespace is not None:
                found = namespace.status()
                held = namespace.held_runs(most=_MOST_RUNS)
                return _Found(found, {}, contents, list(alarms_of(found, self.max_age)), held)
            return _Found(None, _counts(store), contents)
        except BaseException:  # an interrupt too: nobody else would close them
            self.close()
            raise

    def close(self) -> None:
        """Close what is open."""
        self._stores = []
        self._opened.close()


def status(
    url: Url = None,
    archive: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARCHIVE",
            help="Show what this archive holds too, sqlite:PATH or jsonl:DIR; give it again for each further one.",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep it on screen, until Ctrl-C.")] = False,
    check: Annotated[bool, typer.Option("--check", help="End with exit code 1 if there is an alarm.")] = False,
    max_age: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="For how long a run may be due before that is an alarm."),
    ] = 300.0,
    every: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds between two polls of --watch.")] = 2.0,
    start_timeout: StartTimeout = START_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Show how a store stands: server, memory, runs, what waits to be archived, who archives it and what
    holds them up, what is parked and why.

    A run is due when it has something to archive. A backlog (events), or an age of the oldest due run
    (seconds), that grows means that no drain worker keeps up. An archive shows its counts of runs, events
    and quarantined records, as those given with --archive do, and what purpose-agent's own writer did to runs
    that came by a drain: events and states that are no part of the history (`runstream import --append` adds
    them), rows that it deleted, and runs of which it made a second one.

    What is archived and still in Redis is shown with the reason: no snapshot covers it, a lane never checkpointed,
    or the workers trim nothing. `runstream trim` lets it leave Redis all the same.

    An alarm is what somebody has to act on: runs are due and no worker reports that it drains them; one has been
    due for longer than --max-age; no worker has an archive that is required; runs are parked; keys are damaged.
    With --check an alarm is exit code 1, for cron and for monitoring.

    --watch goes on through an outage, and shows it. Where stdout is no terminal it prints the tables, or with
    --json a document on a line of its own, at every poll.
    """  # noqa: D205 - its first paragraph is the command's help
    if check and watch:
        raise typer.BadParameter("looks once: leave out --watch", param_hint="--check")
    poller = _Poller(url, archive, max_age)
    try:
        if watch:
            watch_with(poller.poll, every, as_json=as_json)
        wait_for_server(url, start_timeout)
        found = poller.poll()
    finally:
        poller.close()
    if check and found.namespace is None:
        raise ConfigurationError("--check is for Redis: give the --url of one")
    if as_json:
        emit_json(found.to_dict())
    else:
        console(sys.stdout).print(*spaced(found.tables()), sep="\n")
    if check and found.alarms:
        raise typer.Exit(ExitCode.DOES_NOT_HOLD)


def _counts(store: RunStore[Any, Any]) -> dict[str, Any]:
    infos = list(store.runs())
    facts: dict[str, Any] = {"runs": len(infos), "events": sum(info.last_offset for info in infos)}
    sink = part_of(store, Sink)
    if sink is not None:
        quarantined = sum(1 for _ in sink.quarantine())
        facts = {"archive": sink.archive_id, "location": sink.location, **facts, "quarantined": quarantined}
    beside = part_of(store, HoldsForeign)
    if beside is not None:
        facts["foreign"] = [one._asdict() for one in beside.foreign()]
        facts["refused"] = dict(beside.refused())
    return facts


def _contents(store: RunStore[Any, Any]) -> dict[str, Any]:
    if part_of(store, Sink) is None:
        raise ConfigurationError("--archive is an archive: sqlite:PATH or jsonl:DIR")
    return _counts(store)


def _held_facts(held: HeldRuns, trims: Collection[str]) -> dict[str, Any]:
    """What is archived and still in Redis, and why: in all, by what holds it, and the runs with the most of it."""
    by: Counter[str] = Counter()
    for one in held.runs:
        by[one.by] += one.events
    largest = [{**one._asdict(), "reason": why_held(one, trims)} for one in held.runs[:_SHOWN_RUNS]]
    counts = {"events": held.events, "runs": len(held.runs), "looked_at": held.looked_at}
    return {**counts, "by": dict(by), "largest": largest}


def _namespace_tables(found: NamespaceStatus, held: HeldRuns | None) -> Iterator[Table]:
    memory = found.used_memory_bytes
    yield _fact_table(
        {
            "server": f"{found.server} {found.version}" if found.version else "does not say",
            "memory used": "does not say" if memory is None else bytes_text(memory),
            "namespace": f"{found.namespace} ({found.partitions} partitions)",
            "runs": found.runs,
            "due now": found.due,
            "due later (claimed or parked)": found.later,
            "backlog": counted(found.backlog_events, "event"),
            "oldest due waits": f"{found.oldest_due_seconds:.1f} s" if found.due else "none is due",
            **({} if held is None else {"archived, still in Redis": _held_text(held, found.runs)}),
            "parked": len(found.parked),
            "workers": len(found.workers),
            "required archives": len(found.archives),
        }
    )
    if held is not None and held.runs:
        largest = [(one.run_id, one.events, why_held(one, found.trims)) for one in held.runs[:_SHOWN_RUNS]]
        yield make_table(["archived, still in Redis", "events", "why"], largest)
    if found.archives:
        yield make_table(["archive", "location"], sorted(found.archives.items()), unfolded=("archive",))
    if found.workers:
        rows = [_worker_row(found, one) for one in found.workers]
        yield make_table(["worker", "seen", "partitions", "events", "trim"], rows)
    failures = [(one.name, *failure) for one in found.workers for failure in one.failing.items()]
    if failures:
        rows = [(name, what, ago(failure.since), failure.error) for name, what, failure in failures]
        yield make_table(["worker", "what fails", "since", "why"], rows)
    if found.damaged:
        yield make_table(["damaged key", "what is wrong"], sorted(found.damaged.items()))
    if found.parked:
        yield make_table(["parked run", "reason"], sorted(found.parked.items()))


def _held_text(held: HeldRuns, runs: int) -> str:
    among = f", of the {held.looked_at} runs updated last" if held.looked_at < runs else ""
    return f"{counted(held.events, 'event')} of {counted(len(held.runs), 'run')}{among}"


def _foreign_tables(archives: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """What another program did to the runs of archives."""
    rows = [
        (
            *(held["location"], one["run_id"], one["events"]),
            *("yes" if one[name] else "" for name in ("has_state", "has_deleted")),
        )
        for held in archives
        for one in held["foreign"]
    ]
    if rows:
        yield make_table(["archive", "run", "foreign events", "foreign state", "rows deleted"], rows)
    refused = [(held["location"], reason) for held in archives for reason in held["refused"].values()]
    if refused:
        yield make_table(["archive", "refused"], refused)


def _worker_row(found: NamespaceStatus, worker: WorkerReport) -> Sequence[object]:
    drains = "all" if worker.partitions is None else ",".join(map(str, worker.partitions))
    return worker.name, ago(worker.seen_at, now=found.now), drains, worker.events, worker.trim


def _fact_table(facts: dict[str, Any]) -> Table:
    rows = [(name, str(value)) for name, value in facts.items() if name not in ("foreign", "refused")]
    return make_table(["what", "value"], rows)
