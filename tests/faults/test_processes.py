"""Many processes on one run: whatever is killed or stopped, what was acknowledged is there, once and in order.

``RUNSTREAM_TEST_ROUNDS=20`` plays the games of chance that often, each time another one; a run of the suite, once.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from runstream import LeaseHeld, RedisCheckpointer, connect
from runstream.codec.chain import next_chain
from runstream.codec.event_codec import Codec
from runstream.codec.record import decode_record, fields_of, key_of, record_crc
from runstream.model.results import Cursor
from runstream.stores.redis.namespace import namespace_of
from tests.support.exhaustive import ROUNDS
from tests.support.processes.child import Child
from tests.support.processes.journal import Journal, Sent
from tests.support.processes.writers import SHARED_KEYS
from tests.support.samples import make_event, make_state
from tests.support.servers import DEADLINE_SECONDS, Server, Servers, needs_valkey

pytestmark = needs_valkey

PROCESSES = 8
TTL_SECONDS = 1.5

FORMS = ("alone", "threads", "tasks", "alone", "threads", "forks", "tasks", "alone")
"""How the lanes of each process run. The first three are killed; the first two are restarted and go on."""


@pytest.fixture
def server(servers: Servers) -> Server:
    return servers.get("valkey")


@pytest.fixture
def url(server: Server, namespace: str) -> Iterator[str]:
    """Where the processes meet; what they leave is removed."""
    yield f"{server.url}?namespace={namespace}"
    if left := list(server.raw.scan_iter(f"{{{namespace}*", count=1000)):
        server.raw.delete(*left)


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """Start child processes; those that still run at the end of the test are ended."""
    with ExitStack() as running:
        yield lambda world, **arguments: running.enter_context(Child(world, **arguments))


def store_at(url: str) -> RedisCheckpointer[Any, Any]:
    store = connect(url)
    assert isinstance(store, RedisCheckpointer)
    return store


# -- the checker


@dataclass(frozen=True)
class Entry:
    """One entry of a run's stream, with what its record says."""

    at: Cursor
    record: bytes
    lane_id: str
    seq: int
    batch: tuple[str, int]
    n: int
    key: str | None


@dataclass
class Log:
    """A run as the server has it, read without any store."""

    run_id: str
    start: Cursor
    last: Cursor
    entries: list[Entry] = field(default_factory=list)

    def chained(self) -> Log:
        """The same entries at dense offsets, along one chain: the log of a server that was sent just these."""
        entries, at = [], self.start
        for entry in self.entries:
            at = Cursor(at.offset + 1, next_chain(at.chain, record_crc(entry.record)))
            entries.append(replace(entry, at=at))
        return Log(self.run_id, self.start, at, entries)

    @classmethod
    def read(cls, raw: Any, keys: Any, run_id: str) -> Log:
        """What the server has of a run."""
        start, last = (Cursor(*map(int, text.split(b"-"))) for text in raw.hmget(keys.meta, "start", "last"))
        log = cls(run_id, start, last)
        for entry_id, fields in raw.xrange(keys.events):
            at = Cursor(*map(int, entry_id.split(b"-")))
            log.entries.append(entry_of(run_id, at, fields[b"e"]))
        return log


def entry_of(run_id: str, at: Cursor, record: bytes) -> Entry:
    values = decode_record(run_id, at.offset, record)
    event = fields_of(run_id, values)
    lane_id, payload = event["lane_id"], event["payload"]
    return Entry(at, record, lane_id, event["seq"], (lane_id, payload["batch"]), payload["n"], key_of(values))


def find_faults(log: Log, sent: Iterable[Sent]) -> list[str]:
    """What of the promises does not hold in this log, given all that was sent to it and acknowledged."""
    return [*_faults_of_chain(log), *_faults_of_order(log), *_faults_of_batches(log, sent)]


def _faults_of_chain(log: Log) -> Iterator[str]:
    """Offsets from 1 without a hole; each entry's chain made of the one before and its record."""
    before = log.start
    for entry in log.entries:
        wanted = Cursor(before.offset + 1, next_chain(before.chain, record_crc(entry.record)))
        if entry.at != wanted:
            yield f"{entry.at} where {wanted} should be"
        before = entry.at
    if log.start.offset != 0 or log.last != before:
        yield f"the run begins at {log.start} and ends at {before}, not at {log.last}"


def _faults_of_order(log: Log) -> Iterator[str]:
    """Each event and each key once, and in each lane one after the other."""
    for event, times in Counter((entry.batch, entry.n) for entry in log.entries).items():
        if times > 1:
            yield f"event {event} is there {times} times"
    for key, times in Counter(entry.key for entry in log.entries if entry.key is not None).items():
        if times > 1:
            yield f"key {key!r} is there {times} times"
    lanes: dict[str, int] = defaultdict(int)
    for entry in log.entries:
        if entry.seq <= lanes[entry.lane_id]:
            yield f"{entry.batch} of lane {entry.lane_id} comes after one that was sent later"
        lanes[entry.lane_id] = max(lanes[entry.lane_id], entry.seq)


def _faults_of_batches(log: Log, sent: Iterable[Sent]) -> Iterator[str]:
    """Each batch whole or not at all, the acknowledged ones at the offsets that were told."""
    by_key = {entry.key: entry for entry in log.entries if entry.key is not None}
    by_batch: dict[tuple[str, int], list[Entry]] = defaultdict(list)
    for entry in log.entries:
        by_batch[entry.batch].append(entry)
    for batch in sent:
        there = by_batch.pop((batch.lane_id, batch.number), [])
        if there or batch.acknowledged:
            yield from _faults_of_batch(batch, there, by_key)
    if by_batch:
        yield f"nobody sent {list(by_batch)}"


def _faults_of_batch(batch: Sent, there: Sequence[Entry], by_key: Mapping[str, Entry]) -> Iterator[str]:
    offsets, own = [entry.at.offset for entry in there], {entry.n: entry for entry in there}
    if offsets and offsets != list(range(offsets[0], offsets[0] + len(offsets))):
        yield f"{batch} lies at {offsets}"
    if [entry.n for entry in there] != sorted(own):
        yield f"{batch} is not in its order"
    keys = list(batch.keys or [None] * batch.size)
    if any(keys[entry.n : entry.n + 1] != [entry.key] for entry in there):
        yield f"{batch} has keys {[entry.key for entry in there]}"
    # where each event lies: its own entry, or the one that had its key before
    places = [own.get(n) or by_key.get(key or "") for n, key in enumerate(keys)]
    told = [place.at.offset for place in places if place is not None]
    if len(told) < len(keys):
        yield f"{batch} is not whole: {told}"
    elif batch.first is not None and (batch.first, batch.last) != (told[0], told[-1]):
        yield f"{batch} lies at {told}"
    elif batch.expected is not None and told[0] != batch.expected + 1:
        yield f"{batch} was to lie right behind, and lies at {told}"


# -- the checker is checked


def log_of(*batches: Sent, without: Sequence[str] = ()) -> Log:
    """The log that these batches make; of events whose keys are in ``without``, none."""
    codec, seqs = Codec[Any, Any](), Counter[str]()
    records = []
    for batch in batches:
        for n, key in enumerate(batch.keys or [None] * batch.size):
            seqs[batch.lane_id] += 1
            if key not in without or key is None:
                place = {"batch": batch.number, "n": n}
                event = make_event("r", seqs[batch.lane_id], lane_id=batch.lane_id, payload=place)
                records += [encoded.record for encoded in codec.encode_events("r", [event], [key])]
    start = Cursor(0, 4711)
    return Log("r", start, start, [entry_of("r", start, record) for record in records]).chained()


SENT = [
    Sent("a", 1, 1, acknowledged=True, first=1, last=1),
    Sent("b", 1, 3, acknowledged=True, first=2, last=4),
    Sent("b", 2, 2, ["k1", "k2"], acknowledged=True, first=5, last=6),
    Sent("a", 2, 2, expected=6, acknowledged=True, first=7, last=8),
    Sent("a", 3, 3, ["k3", "k2", None], acknowledged=True, first=9, last=10),
    Sent("b", 3, 2),
    Sent("c", 1, 2),
]
"""What was sent. One event of ``a``'s third batch has a known key, ``c``'s batch is lost with its process."""


def good_log() -> Log:
    log = log_of(*SENT[:6])
    of_known_key = next(entry for entry in log.entries if (entry.batch, entry.key) == (("a", 3), "k2"))
    log.entries.remove(of_known_key)
    return log.chained()


def test_the_checker_takes_what_is_right() -> None:
    """With an unanswered batch that is there, and one that is not."""
    assert find_faults(good_log(), SENT) == []
    assert len(good_log().entries) == 12


def tampered_logs() -> Iterator[tuple[str, Log]]:
    """All logs that are one step away from the good one."""
    entries = good_log().entries
    for at, entry in enumerate(entries):
        yield f"without {at}", replace(good_log(), entries=entries[:at] + entries[at + 1 :])
        for other in range(len(entries) + 1):
            yield (
                f"{at} again at {other}",
                replace(good_log(), entries=[*entries[:other], entry, *entries[other:]]),
            )
        for other in range(at):
            swapped = list(entries)
            swapped[at], swapped[other] = entries[other], entry
            yield f"{at} and {other} swapped", replace(good_log(), entries=swapped)
    yield "half of what was not answered", log_of(*SENT[:6], SENT[6]._replace(size=1))


def test_the_checker_finds_what_is_wrong() -> None:
    """Each event dropped, doubled, or swapped with another, also where offsets and chains were made to fit."""
    for name, log in tampered_logs():
        assert find_faults(log, SENT), name
        assert find_faults(log.chained(), SENT), f"{name}, chained anew"


@pytest.mark.parametrize(
    "changed",
    [
        SENT[0]._replace(first=2, last=2),
        SENT[1]._replace(size=4, last=5),
        SENT[2]._replace(keys=["k1", "k3"]),
        SENT[2]._replace(keys=["k1", "k4"]),
        SENT[3]._replace(expected=5),
        SENT[4]._replace(keys=["k3", "k4", None]),
        SENT[5]._replace(size=3),
        SENT[6]._replace(acknowledged=True),
    ],
)
def test_the_checker_compares_with_what_was_told(changed: Sent) -> None:
    """Another offset, size, key or expectation than what the log has, and one that is missing."""
    sent = [changed if (batch[:2] == changed[:2]) else batch for batch in SENT]
    assert find_faults(good_log(), sent)


def test_the_checker_knows_what_nobody_sent() -> None:
    """An event out of nowhere."""
    assert find_faults(good_log(), SENT[:5])


# -- eight processes


@pytest.mark.parametrize("events", [200, pytest.param(800, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_many_writers_one_truth(
    seed: int, events: int, server: Server, url: str, start: Callable[..., Child], tmp_path: Path
) -> None:
    """P1, P2, P3, P5: so many events by each of 8 processes on one run, three of them killed on their way."""
    dice = random.Random(time.time_ns() if seed else 0)
    journals = {f"p{number}": Journal(tmp_path / f"p{number}") for number in range(PROCESSES)}

    def start_writer(name: str, form: str) -> Child:
        return start(
            "write",
            url=url,
            run_id="r",
            name=name,
            form=form,
            events=events,
            seed=dice.getrandbits(32),
            journal=str(journals[name].path),
        )

    forms = dict(zip(journals, FORMS, strict=True))
    running = {name: start_writer(name, form) for name, form in forms.items()}
    for child in running.values():
        assert child.hear() == "ready"
    for child in running.values():
        child.tell("go")
    # in bytes of their journals, which grow to some thirty for each event
    doomed = {name: dice.randint(2_000, 17 * events) for name in list(forms)[:3]}
    await_each(doomed, lambda name: journals[name].size() >= doomed[name], lambda name: running.pop(name).kill())
    for name in list(forms)[:2]:
        running[name] = start_writer(name, forms[name])
        assert running[name].hear() == "ready"
        running[name].tell("go")
    for child in running.values():
        child.end()

    sent = [batch for journal in journals.values() for batch in journal.batches()]
    log = Log.read(server.raw, namespace_of(store_at(url)).keys.run("r"), "r")
    assert find_faults(log, sent) == []
    # what was to be tried was tried: all of the events, all of the keys by more than one, refusals
    assert len(log.entries) > 0.8 * PROCESSES * events
    assert {entry.key for entry in log.entries} >= set(SHARED_KEYS)
    assert any(batch.expected for batch in sent)


def await_each(
    names: Iterable[str], has_come: Callable[[str], bool], then: Callable[[str], object] = lambda _: None
) -> None:
    """Do something for each name as soon as its moment has come."""
    waiting = list(names)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while waiting:
        assert time.monotonic() < deadline, f"still waiting for {waiting}"
        for name in [name for name in waiting if has_come(name)]:
            then(name)
            waiting.remove(name)
        time.sleep(0.0005)


@pytest.mark.parametrize("times", [25, pytest.param(100, marks=pytest.mark.exhaustive)])
def test_no_update_is_lost(server: Server, url: str, start: Callable[..., Child], times: int) -> None:
    """P7: 8 processes that increment one counter."""
    counters = [start("count", url=url, run_id="r", name=f"p{number}", times=times) for number in range(PROCESSES)]
    for child in counters:
        assert child.hear() == "ready"
    for child in counters:
        child.tell("go")
    for child in counters:
        child.end()
    snapshot = store_at(url).load_snapshot("r")
    assert snapshot is not None
    assert snapshot.state.current_step == snapshot.revision == PROCESSES * times
    assert snapshot.state.data == {f"p{number}": times for number in range(PROCESSES)}


# -- a lease and its holder, who is stopped


@dataclass
class Holder:
    """A process that holds a lease on the run of its name, and writes under it."""

    name: str
    child: Child
    journal: Journal

    def begin(self) -> None:
        """Let it take the lease and write."""
        assert self.child.hear() == "ready"
        self.child.tell("go")
        await_each([self.name], lambda _: any(batch.acknowledged for batch in self.journal.batches()))

    def go_on(self) -> None:
        """Let it go on after it was stopped."""
        self.child.tell("go on")  # if it waits for a word
        self.child.go_on()

    def told(self) -> set[int]:
        """The offsets of its acknowledged batches."""
        return {offset for batch in self.journal.batches() for offset in (batch.first, batch.last) if offset}


HOLDERS = {
    "passed on while it waited": ("waits", 0),
    "ran out while it waited": ("waits", 0),
    "passed on in a loop": ("thread", 0),
    "passed on in a task": ("task", 0),
    # more than a connection takes at once: what is left of a command arrives when the process goes on
    "passed on within a command": ("thread", 400_000),
}
"""What becomes of a lease, and how its holder works: its form, and the size of its events in bytes."""


@pytest.mark.one_in(2)
@pytest.mark.parametrize("lane_id", ["a", None], ids=["lane", "run"])
def test_nothing_that_a_stopped_holder_sends_is_applied(
    lane_id: str | None, server: Server, url: str, start: Callable[..., Child], tmp_path: Path
) -> None:
    """P6: stopped past its lease and continued, all that it tries gets LeaseLost and is not there."""
    holders = []
    for name, (form, payload_bytes) in HOLDERS.items():
        journal = Journal(tmp_path / name)
        arguments = {"lane_id": lane_id, "ttl": TTL_SECONDS, "form": form, "payload_bytes": payload_bytes}
        child = start("hold", url=url, run_id=name, journal=str(journal.path), **arguments)
        holders.append(Holder(name, child, journal))
    store = store_at(url)
    for holder in holders:
        holder.begin()
        check_that_others_are_kept_out(store, holder.name, lane_id)
        holder.child.stop()
        while "within" in holder.name and not is_within_a_command(server):
            holder.child.go_on()
            holder.child.stop()
    leases = {}
    for holder in holders:
        if holder.name.startswith("passed"):
            leases[holder.name] = store.lease(
                holder.name, owner="other", lane_id=lane_id, ttl=DEADLINE_SECONDS, wait=DEADLINE_SECONDS
            )
        else:
            await_each([holder.name], lambda run_id: has_run_out(store, run_id, lane_id))
    ends = {holder.name: len(store.list_events(holder.name)) for holder in holders}
    for holder in holders:
        store.append(
            holder.name, [make_event(holder.name, 1, lane_id=lane_id or "main")], lease=leases.get(holder.name)
        )
        holder.go_on()
    for holder in holders:
        said = json.loads(holder.child.hear())
        holder.child.end()
        assert set(said["outcomes"].values()) == {"LeaseLost"}, said
        assert said["knew"]
        assert said["lost"]
    for holder in holders:
        recorded = list(store.read(holder.name))
        assert len(recorded) == ends[holder.name] + 1, "something came after the lease had passed on"
        assert holder.told() <= {item.offset for item in recorded if item.event.payload.get("by") == "holder"}
        assert store.load_snapshot(holder.name) is store.load_snapshot(holder.name, lane_id="a") is None
        event = make_event(holder.name, 2, lane_id=lane_id or "main")
        # the key that it tried is not known
        assert (
            store.append(holder.name, [event], keys=["key"], lease=leases.get(holder.name))[0] == len(recorded) + 1
        )
    for lease in leases.values():
        lease.release()


def check_that_others_are_kept_out(store: RedisCheckpointer[Any, Any], run_id: str, lane_id: str | None) -> None:
    """While the holder is at work: nobody writes what it has leased; other lanes wait for nobody."""
    for refused in (
        lambda: store.save_event(make_event(run_id, lane_id="a")),
        lambda: store.save_snapshot(run_id, make_state(run_id), lane_id="a"),
        lambda: store.lease(run_id, owner="other", lane_id=lane_id),
        lambda: store.lease(run_id, owner="other", lane_id="a" if lane_id is None else None),
        lambda: store.delete_run(run_id),
    ):
        with pytest.raises(LeaseHeld) as caught:
            refused()
        assert caught.value.owner == "holder"
        assert 0 < caught.value.expires_in <= TTL_SECONDS
    if lane_id is None:
        with pytest.raises(LeaseHeld):
            store.save_event(make_event(run_id, lane_id="b"))
    else:
        store.save_event(make_event(run_id, lane_id="b"))
        with store.lease(run_id, owner="other", lane_id="b") as lease:
            lease.save_event(make_event(run_id, lane_id="b"))


def is_within_a_command(server: Server) -> bool:
    """Whether somebody has sent a part of a command, of which the server waits for the rest."""

    def has_a_part() -> bool:
        clients: Any = server.raw.client_list()
        return any(int(client["qbuf"]) > 0 for client in clients if client["cmd"] != "client|list")

    return all(has_a_part() for _ in range(3))  # once, and it may be reading


def has_run_out(store: RedisCheckpointer[Any, Any], run_id: str, lane_id: str | None) -> bool:
    try:
        store.save_event(make_event(run_id, lane_id=lane_id or "main"))
    except LeaseHeld:
        return False
    return True
