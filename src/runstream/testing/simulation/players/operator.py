"""Operators, as players: they end, retire, trim, restore, verify and delete runs while others work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from runstream.drain.worker import DrainWorker
from runstream.model.errors import (
    AcknowledgedWritesLost,
    ConcurrencyConflict,
    ConfigurationError,
    EventsArchived,
    HistoryDiverged,
    LeaseHeld,
    LeaseLost,
    StoreUnavailable,
)
from runstream.model.events import EventKind, PAEvent
from runstream.model.state import RunState
from runstream.repair.required_archives import add_archive, drop_archive
from runstream.repair.resolve import load_histories, resolve
from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.tiered.checkpointer import TieredCheckpointer
from runstream.testing.agent import mark_of
from runstream.testing.simulation.players.player import Player
from runstream.testing.simulation.world import Diary

__all__ = ["OperatorPlayer"]

_PAUSE_SECONDS = (0.0, 0.1, 1.0)
_KEEPS = ("redis", "archive", "both")
_LEASED_SECONDS = (1.0, 25.0)
_NO_RUN = "no-run"  # which nobody writes to
_TRIMS = ("covered", "archived")


class OperatorPlayer(Player):
    """Does one thing after the other to the runs of all, and to some that are its own.

    Of its own runs it appends to those that it has not ended, and deletes any, in Redis and each archive. A run of
    all it ends only where nothing is forgotten: who goes on with a run that was forgotten begins another one.
    """

    kind = "operator"
    goes_on = False

    def prepare(self) -> None:
        """Begin a diary, and have no runs of its own."""
        self.diary = Diary()
        self.world.diaries.append(self.diary)
        self._number = 0
        self._open: dict[str, bool] = {}  # own runs, and whether they go on
        self._told: dict[str, dict[int, str]] = {}  # the marks of its events in them, by offset

    @property
    def is_done(self) -> bool:
        """Whether it has done all that it will."""
        return self.diary.is_done and not self.process.is_dead

    def act(self) -> None:
        """Do so many things."""
        world, choices = self.world, self.world.choices
        with world.at_work(self.process) as (hot, archives):
            self._hot, self._archives = hot, archives
            self._stores = [TieredCheckpointer(hot, archive) for archive in archives]
            acts: list[Callable[[], None]] = [
                *(self._append, self._append, self._end_own, self._delete, self._restore_own),
                *(self._restore, self._verify, self._unpark, self._resolve, self._trim, self._trim),
            ]
            acts += [] if world.plan.forget_after_seconds is not None else [self._end, self._end]
            if world.plan.acts:
                acts = [getattr(self, f"_{name}") for name in world.plan.acts]
            for _ in range(world.plan.turns):
                choices.one_of(acts)()
                world.sleep(choices.one_of(_PAUSE_SECONDS))
            self.diary.is_done = True
            if world.plan.loses:
                self._settle()

    # -- its own runs

    def _append(self) -> None:
        going = [run_id for run_id, is_open in self._open.items() if is_open]
        if len(going) < 2:
            run_id = f"{self.process.name}-{len(self._open)}"
            self._open[run_id] = True
            self.world.own_runs.append(run_id)
        else:
            run_id = self.world.choices.one_of(going)
        self._send(self._stores[0], run_id, 1 + self.world.choices.below(3))

    def _end_own(self) -> None:
        going = [run_id for run_id, is_open in self._open.items() if is_open]
        if going:
            run_id = self.world.choices.one_of(going)
            self._send(self._stores[0], run_id, 1, EventKind.RUN_FINISHED)
            self._open[run_id] = False

    def _delete(self) -> None:
        if not self._open:
            return
        run_id = self.world.choices.one_of(list(self._open))
        self.diary.note(["deletes", run_id])
        for store in self._stores:
            self._until_told(lambda store=store: store.delete_run(run_id))  # type: ignore[misc] # bound at once
        self.diary.note(["deleted", run_id])
        self._told.pop(run_id, None)
        self._open[run_id] = True  # what is appended to it now is another run

    def _restore_own(self) -> None:
        if ended := [run_id for run_id, is_open in self._open.items() if not is_open]:
            self._put_back(self.world.choices.one_of(ended))

    def _save(self) -> None:
        """Save a state of a run of its own that tells of all its events."""
        if self._open:
            run_id, store = self.world.choices.one_of(list(self._open)), self._stores[0]
            with self._may_be_lost(store, run_id):
                found: Any = self._until_told(lambda: list(store.read(run_id)))
                state = RunState(run_id, data={"marks": [mark_of(item.event) for item in found]})
                self._until_told(lambda: store.save_snapshot(run_id, state))

    def _erase(self) -> None:
        """Erase some of its events, of which any may be archived by now, or not yet."""
        told = {run_id: marks for run_id, marks in self._told.items() if marks}
        if told:
            run_id = self.world.choices.one_of(list(told))
            some = {self.world.choices.one_of(list(told[run_id])) for _ in range(2)}
            self._let_go(run_id, some, lambda store: store.erase(run_id, some, drop_snapshots=True))

    def _truncate(self) -> None:
        """Let the history of a run begin with one of its events."""
        told = {run_id: marks for run_id, marks in self._told.items() if marks}
        if told:
            run_id = self.world.choices.one_of(list(told))
            before = self.world.choices.one_of(list(told[run_id]))
            gone = {offset for offset in told[run_id] if offset < before}
            self._let_go(run_id, gone, lambda store: store.truncate(run_id, before=before))

    def _let_go(self, run_id: str, offsets: set[int], call: Callable[[Any], Any]) -> None:
        marks = [self._told[run_id].pop(offset) for offset in sorted(offsets)]
        self.diary.note(["erases", run_id, "", marks])
        store = self.world.choices.one_of([self._hot, *self._stores])
        # it is in an archive alone, or Redis does not know the cursor there any more
        with self._may_be_lost(store, run_id), suppress(EventsArchived):
            self._until_told(lambda: call(store))
            self.diary.note(["erased", run_id, "", marks])

    def _let_go_again(self, run_id: str, marks: set[str]) -> None:
        """Ask again for what a failover may have lost, of the events that are there."""
        store = self._stores[0]
        with self._may_be_lost(store, run_id):
            store.forget(run_id)
            if (
                self._until_told(lambda: self._hot.run_info(run_id)) is None
            ):  # each archive is asked by itself then
                return
            found: dict[int, str] = self._until_told(
                lambda: {item.offset: mark_of(item.event) for item in store.read(run_id)}
            )
            there = {offset: mark for offset, mark in found.items() if mark in marks}
            self._until_told(lambda: store.erase(run_id, list(there), drop_snapshots=True))
            self.diary.note(["erased", run_id, "again", list(there.values())])

    def _lease(self) -> None:
        """Have a lease for a while on a run of its own, or on one that is not there, and do nothing with it."""
        run_id = self.world.choices.one_of([_NO_RUN, *self._open])
        with suppress(StoreUnavailable, LeaseHeld, LeaseLost), self._hot.lease(run_id, owner=self.process.name):
            self.world.sleep(self.world.choices.one_of(_LEASED_SECONDS))

    # -- runs of all

    def _end(self) -> None:
        run_id = self.world.choices.one_of(self.world.runs)
        self._send(self._stores[self.world.choices.below(2)], run_id, 1, EventKind.RUN_FINISHED)

    def _intrude(self) -> None:
        """Write without a lease to the lane that agents lease from each other."""
        self._send(self._stores[0], self.world.runs[0], 1, lane_id="contended")

    def _restore(self) -> None:
        self._put_back(self.world.choices.one_of(self.world.runs))

    def _put_back(self, run_id: str) -> None:
        archive = self.world.choices.one_of(self._archives)
        whole = bool(self.world.choices.below(2))
        with suppress(StoreUnavailable, ConcurrencyConflict, ConfigurationError):
            try:
                self.world.put_back(self._hot, archive, run_id, whole=whole)
            except HistoryDiverged:
                if not self.world.server.losses:
                    raise

    def _verify(self) -> None:
        run_id = self.world.choices.one_of(self.world.runs)
        with suppress(StoreUnavailable):
            verdict = verify_run(run_id, hot=self._hot, sinks=self._archives)
            assert verdict.is_sound or self.world.server.losses, verdict

    def _trim(self) -> None:
        """Let what is archived leave Redis at once, of one run or of all, whatever the workers trim."""
        trim: Any = self.world.choices.one_of(_TRIMS)
        with suppress(StoreUnavailable):
            worker = DrainWorker(
                self._hot,
                self._archives,
                name=self.process.name,
                trim=trim,
                claim_seconds=self.world.plan.claim_seconds,
            )
            held = namespace_of(self._hot).held_runs().runs
            run_ids = [one.run_id for one in held if one.trimmable(trim)]
            done = worker.drain_runs(
                run_ids if self.world.choices.below(2) else [self.world.choices.one_of(self.world.runs)]
            )
            self.world.scheduler.note(f"trims what is {trim}: {done}")

    def _unpark(self) -> None:
        with suppress(StoreUnavailable):
            namespace = namespace_of(self._hot)
            namespace.unpark(sorted(namespace.status().parked) or list(self.world.runs))

    def _resolve(self) -> None:
        run_id = self.world.choices.one_of(self.world.runs)
        keep: Any = self.world.choices.one_of(_KEEPS)
        with suppress(StoreUnavailable, ConcurrencyConflict, ConfigurationError, HistoryDiverged):
            seen = load_histories(self._hot, self._archives, run_id)
            if seen is not None:
                self.world.scheduler.note(f"resolves {run_id}: {keep}")
                if self.world.server.losses:  # else there is one history, and this changes nothing
                    self.world.resolved[run_id].add(keep)
                resolve(self._hot, self._archives, seen, keep)

    def _drop(self) -> None:
        """Drop an archive that no other operator drops, and add it again: nobody requires it until then."""
        archive, other = self._archives if self.role % 2 else self._archives[::-1]
        while not all(self._required()):  # workers have not said yet which are required
            self.world.sleep(0.05)
        with suppress(ConfigurationError):  # it is the last one
            drop_archive(self._hot, archive.archive_id)
            self.world.sleep(self.world.choices.one_of(_PAUSE_SECONDS))
            assert not any(archive.archive_id in required for required in self._required()), "it is required again"
        assert all(self._required()), "a partition requires no archive"
        while True:
            with suppress(ConfigurationError):  # the other one is not required
                add_archive(self._hot, archive, other)
                return
            self.world.sleep(0.05)

    def _required(self) -> Sequence[Mapping[str, str]]:
        return namespace_of(self._hot).required_archives()

    # -- how

    def _send(
        self,
        store: Any,
        run_id: str,
        count: int,
        kind: EventKind = EventKind.TOOL_RESULT,
        lane_id: str | None = None,
    ) -> None:
        marks = [f"@{self.process.name}/{self._number + number}@" for number in range(1, count + 1)]
        self._number += count
        events = [self._event(run_id, mark, kind, lane_id) for mark in marks]
        keys = [mark.strip("@") for mark in marks]
        self.diary.note(["sends", run_id, marks, keys])
        with self._may_be_lost(store, run_id):
            first = self._until_told(lambda: store.append(run_id, events, keys=keys).first_offset)
            self.diary.note(["told", run_id, marks, first])
            self._told.setdefault(run_id, {}).update(enumerate(marks, first))

    @contextmanager
    def _may_be_lost(self, store: Any, run_id: str) -> Iterator[None]:
        """Take a run as it is, where the server has lost something of it."""
        try:
            yield
        except (AcknowledgedWritesLost, HistoryDiverged, EventsArchived, ConfigurationError):
            if not self.world.server.losses:
                raise
            self.diary.note(["lost", run_id])
            self._told.pop(run_id, None)
            store.forget(run_id)
        except StoreUnavailable:  # nobody can tell any more
            pass

    def _event(
        self, run_id: str, mark: str = "", kind: EventKind = EventKind.TOOL_RESULT, lane_id: str | None = None
    ) -> PAEvent:
        return PAEvent(
            run_id,
            lane_id=lane_id or self.process.name,
            seq=self._number,
            kind=kind,
            payload={"mark": mark},
            session_id="operators",
        )

    def _settle(self) -> None:
        """Write once more to each run that it has written to: what was lost is told by then.

        Of what it has erased, it asks again for some; a worker does so for what an archive has erased.
        """
        self.world.may_settle.wait()
        for run_id in sorted({run_id for what, run_id, *_ in self.diary.lines if what == "told"}):
            self._send(self._stores[0], run_id, 1)
            if self.diary.lines[-1][0] == "told":
                self.world.settled.add(run_id)
        erased: dict[str, set[str]] = defaultdict(set)
        for what, run_id, *facts in self.diary.lines:
            if what == "erased":
                erased[run_id].update(facts[1])
        for run_id, marks in erased.items():
            if self.world.choices.below(2):
                self._let_go_again(run_id, marks)

    def _until_told(self, call: Callable[[], Any]) -> Any:
        while True:
            try:
                return call()
            except StoreUnavailable as error:
                if error.is_final:
                    raise
                self.world.sleep(0.002)
            except LeaseHeld:  # until it ends: whoever has it may be gone, or was not told that it was given back
                self.world.sleep(0.05)

    def succeed(self) -> OperatorPlayer:
        """Let another one begin, with runs of its own, and remember that this one was killed."""
        self.diary.was_killed = True
        return OperatorPlayer(self.world, self.role)
