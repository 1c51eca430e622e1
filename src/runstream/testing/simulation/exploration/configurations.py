"""The small configurations: one run, one archive, few processes with few steps each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from runstream.model.errors import ConfigurationError, EventsArchived, LeaseHeld, LeaseLost, RunHasForks
from runstream.model.events import EventKind, PAEvent
from runstream.model.state import RunState
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.redis.operations.worker.sweep import BEGINNING
from runstream.stores.redis.scripts.calls import PRODUCER_WINDOW_SECONDS
from runstream.testing.judge import faults_of_copy
from runstream.testing.simulation.exploration.explore import Configuration
from runstream.testing.simulation.exploration.scene import RUN, Scene, Writer
from runstream.testing.simulation.server import Fate
from runstream.testing.simulation.world import Diary

__all__ = ["CONFIGURATIONS"]

_End = Callable[[], Iterator[str]]

_LOST = (Fate.ARRIVES, Fate.REQUEST_LOST, Fate.REPLY_LOST)
_LEASE_SECONDS = 2.0


def _failover(scene: Scene, events: int, *, workers: int, more_events: int = 0) -> _End:
    """Workers, a writer, and one failover, which loses an event that was acknowledged and not archived."""
    names = [f"worker.{number}" for number in range(1, workers + 1)]
    draining = [scene.worker(name) for name in names]
    writer = scene.writer(Writer, "writer")
    scene.alone(writer.take_turn)
    scene.alone(lambda: scene.change("the replica has all", scene.shared.replicate))
    scene.alone(writer.take_turn)
    for worker in draining:
        scene.act(worker.name, partial(scene.drain, worker))
    scene.act("writer", lambda: writer.take_turns(events + more_events))
    scene.act("the server", lambda: scene.change("the replica takes over", scene.shared.fail_over))
    return scene.faults


def _replies(scene: Scene, events: int) -> _End:
    """A writer and a worker, of which any request or reply may be lost, and the worker killed."""
    worker = scene.worker("worker", (*_LOST, Fate.KILLED_AFTER))
    writer = scene.writer(Writer, "writer", _LOST)
    scene.act("worker", lambda: scene.drain(worker))
    scene.act("writer", lambda: writer.take_turns(events + 1))
    return scene.faults


class _Holder(Writer):
    """Writes one lane, which others write too, in a lease that it takes once."""

    lane_id = "lane"
    epoch = 0

    def hold(self, events: int) -> None:
        """Append so many in one lease."""
        try:
            with self.store.lease(RUN, owner=self.name, lane_id=self.lane_id, ttl=_LEASE_SECONDS) as self.lease:
                self.epoch = self.lease.grant.epoch
                self.take_turns(events)
        except (LeaseHeld, LeaseLost):
            pass

    def write(self, run_id: str, events: Sequence[PAEvent], keys: Sequence[str] | None) -> int:
        """Append them in the lease."""
        first: int = self.lease.append(run_id, events, keys=keys).first_offset
        return first


def _leases(scene: Scene, events: int) -> _End:
    """Two writers of one lane with leases, and time that passes them by."""
    holders = [scene.writer(_Holder, name, settles=False) for name in ("first", "second")]
    for holder in holders:
        scene.act(holder.name, lambda holder=holder: holder.hold(events))  # type: ignore[misc] # no lambda is inferred
    scene.act("time", lambda: scene.pass_seconds(*[0.75 * _LEASE_SECONDS] * 2))

    def faults() -> Iterator[str]:
        yield from scene.faults()
        epochs = {holder.name: holder.epoch for holder in holders}
        order = [
            epochs[mark.strip("@").partition("/")[0]]
            for _, mark in sorted({**scene.archived, **scene.hot}.items())
        ]
        if order != sorted(order):
            yield f"written in leases of the epochs {order}"

    return faults


def _delete(scene: Scene, events: int) -> _End:
    """A run is deleted while a worker drains it, and somebody goes on with it, or makes it anew."""
    worker = scene.worker("worker")
    scene.alone(scene.writer(Writer, "former", settles=False).take_turn)
    writer = scene.writer(Writer, "writer", settles=False)
    deleter = scene.open("deleter", _LOST, retry_seconds=5.0)
    scene.act("worker", lambda: scene.drain(worker))
    scene.act("writer", lambda: writer.take_turns(events))
    scene.act("deleter", lambda: deleter.delete_run(RUN))
    return lambda: _faults_of_deleted(scene)


def _faults_of_deleted(scene: Scene) -> Iterator[str]:
    """What is wrong with a run that was deleted once, when it had one event at the least."""
    hot, archived = scene.hot, scene.archived
    for name, copy in (("Redis", hot), ("the archive", archived)):
        yield from faults_of_copy(name, copy)
    if "@former/1@" in hot.values():
        yield "it is there still"
    parked = namespace_of(scene.host).status().parked
    if parked and archived.keys() <= hot.keys():  # else the archive has the former history
        yield f"it is parked: {parked}"
    is_anew = False
    told = [line for line in scene.diaries[-1].lines if line[0] == "told"]
    for _, _, (mark,), first in told:
        is_anew |= first == 1  # what came to the run that was deleted came after its first event
        if is_anew and mark not in {*hot.values(), *archived.values()}:
            yield f"{mark} was acknowledged after the deletion and is not there"
        if not is_anew and mark in hot.values():
            yield f"{mark} was deleted and is there"
    if not is_anew and (left := [key for key in scene.shared.raw.scan_iter() if f":{RUN}:".encode() in key]):
        yield f"{left} is left"


def _save(store: RedisCheckpointer[Any, Any], saved: Diary) -> None:
    with suppress(EventsArchived):  # it was retired, and nobody can recover from this snapshot any more
        store.save_snapshot(RUN, RunState(run_id=RUN, current_step=1))
        saved.note("saved")


class _Finisher(Writer):
    """Ends a run."""

    kind = EventKind.RUN_FINISHED


def _retire(scene: Scene, events: int) -> _End:
    """A run that has ended is retired while somebody appends to it, and saves a snapshot."""
    worker = scene.worker("worker", retire_after_seconds=0)
    scene.alone(scene.writer(_Finisher, "former").take_turn)
    scene.alone(scene.archive)
    writer, saver = scene.writer(Writer, "writer"), scene.open("saver")
    scene.act("worker", lambda: scene.drain(worker))
    scene.act("writer", lambda: writer.take_turns(events))
    saved = Diary()
    scene.act("saver", lambda: _save(saver, saved))

    def faults() -> Iterator[str]:
        yield from scene.faults()
        if saved.lines and 1 not in scene.saved_steps():
            yield "the snapshot was acknowledged and is not there"

    return faults


def _cleared(scene: Scene, events: int) -> _End:
    """A run is retired, and cleared as the server's clock is set, while the reply to its last append is lost."""
    worker = scene.worker("worker", retire_after_seconds=0)
    writer = scene.writer(_Finisher, "writer", _LOST)

    def drain() -> None:
        scene.drain(worker)
        scene.change("its clock is set", partial(scene.shared.run_ahead, 1.1 * PRODUCER_WINDOW_SECONDS))
        scene.drain(worker)

    scene.act("worker", drain)
    scene.act("writer", lambda: writer.take_turns(events))
    return scene.faults


def _unfinished(scene: Scene, events: int) -> _End:
    """An append was refused in its midst, as its user had lost a right; two go on, one of whom may be killed."""
    refused = scene.writer(Writer, "refused", settles=False)
    writer = scene.writer(Writer, "writer", settles=False)
    killed = scene.writer(Writer, "killed", (Fate.ARRIVES, Fate.KILLED_AFTER), settles=False)
    scene.alone(refused.take_turn)
    scene.change("HSET is forbidden", partial(scene.shared.forbid, "hset"))
    with suppress(ConfigurationError):
        scene.alone(refused.take_turn)
    scene.change("HSET is allowed", partial(scene.shared.forbid, None))
    for one in (writer, killed):
        scene.act(one.name, partial(one.take_turns, events))

    def faults() -> Iterator[str]:
        yield from scene.faults()
        told = [mark for diary in scene.diaries for line in diary.lines if line[0] == "told" for mark in line[2]]
        if missing := set(told) - set(scene.archived.values()):
            yield f"{missing} was acknowledged, and all is drained, and the archive does not have it"

    return faults


def _swept(scene: Scene, events: int) -> _End:
    """A run that has been removed from the sets of its partition is swept, deleted and made anew."""
    sweeper = scene.open("sweeper")
    scene.alone(scene.writer(Writer, "former", settles=False).take_turn)
    writer, deleter = scene.writer(Writer, "writer", settles=False), scene.open("deleter")
    scene.change("the sets are removed", scene.shared.evict)
    scene.act("sweeper", lambda: namespace_of(sweeper).sweep_page(BEGINNING))
    scene.act("writer", lambda: writer.take_turns(events))
    scene.act("deleter", lambda: deleter.delete_run(RUN))

    def faults() -> Iterator[str]:
        yield from _faults_of_deleted(scene)
        if not scene.hot and (listed := scene.host.list_runs()):
            yield f"{listed} is listed and not there"

    return faults


_FORK = "fork"
_LONG_SECONDS = 700.0  # an intent is given up before


def _is_deleted(store: Any) -> bool:
    with suppress(RunHasForks):
        store.delete_run(RUN)
        return True
    return False


def _forked(scene: Scene, events: int) -> _End:
    """A run is forked, and deleted, and a sweep gives up what was left over as the server's clock is set."""
    scene.alone(lambda: scene.writer(Writer, "former", settles=False).take_turns(events))
    forker, deleter, sweeper = (scene.open(name) for name in ("forker", "deleter", "sweeper"))
    told = set[str]()

    def fork() -> None:
        with suppress(ConfigurationError):  # it was deleted
            forker.fork(RUN, _FORK)
            told.add("forked")

    def sweep() -> None:
        scene.change("its clock is set", partial(scene.shared.run_ahead, _LONG_SECONDS))
        namespace_of(sweeper).give_up_left()

    scene.act("forker", fork)
    scene.act("deleter", lambda: told.add("deleted") if _is_deleted(deleter) else None)
    scene.act("sweeper", sweep)
    return lambda: _faults_of_forked(scene, events, told)


def _faults_of_forked(scene: Scene, events: int, told: set[str]) -> Iterator[str]:
    """What is wrong with a run that was forked and deleted, as far as their doers were told."""
    is_there, was_deleted = scene.host.run_info(_FORK) is not None, "deleted" in told
    if is_there and was_deleted:
        yield "the run was deleted, and has a fork"
    if is_there != ("forked" in told):
        yield f"the fork is {'' if is_there else 'not '}there: {told}"
    if is_there and not was_deleted and len(list(scene.host.read(_FORK))) != events:
        yield "the fork does not have what it shares"
    namespace_of(scene.host).give_up_left()
    if not was_deleted and _is_deleted(scene.host) == is_there:
        yield f"the run could {'' if is_there else 'not '}be deleted"


CONFIGURATIONS: Mapping[str, Configuration] = {
    # the writer is told that its event is lost, and goes on with another
    "failover": Configuration(partial(_failover, workers=1, more_events=1)),
    "workers": Configuration(partial(_failover, workers=2)),
    "replies": Configuration(_replies, faults=1),
    "leases": Configuration(_leases, time_passes=True),
    "delete": Configuration(_delete, faults=1),
    "retire": Configuration(_retire),
    "cleared": Configuration(_cleared, faults=1),
    "unfinished": Configuration(_unfinished, faults=1),
    "swept": Configuration(_swept),
    "forked": Configuration(_forked),
}
