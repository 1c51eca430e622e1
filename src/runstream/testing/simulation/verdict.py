"""What is wrong when a game is over."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from typing import Any

import fakeredis

from runstream.repair.verify import verify_run
from runstream.stores.redis.namespace import namespace_of
from runstream.stores.tiered.checkpointer import TieredCheckpointer
from runstream.testing.copies import Copy, copy_in_stream, is_left, places_of
from runstream.testing.judge import Testimony, faults_of_snapshot, hear, judge
from runstream.testing.saving import ends_lanes, together_with
from runstream.testing.simulation.branches import faults_of_branches
from runstream.testing.simulation.scheduler import Process
from runstream.testing.simulation.world import Piece, World
from runstream.testing.tagging import ToldTags

__all__ = ["faults_of", "untold_gaps"]

_LATER = (
    *("--drop-snapshots", "a lease is in force", "need what is to go"),
    *("was deleted, with this very history", "the run was deleted and made anew"),
)
"""In the reasons for which a run waits for a person, or for a lease.

It is to be deleted again; or an archive has begun another history of that name, maybe with what is to be erased.
"""


def untold_gaps(world: World) -> Iterator[str]:
    """The runs of which an archive that was put back lacks what has left Redis, and nobody would be told of it.

    Runs that are parked though no archive lacks anything, too.
    """
    with ExitStack() as stack:
        hot = stack.enter_context(world.open(Process("the host")))
        archives = [stack.enter_context(closing(archive)) for archive in world.archives()]
        parked = namespace_of(hot).status().parked
        raw = fakeredis.FakeRedis(server=world.server.fake)
        for run_id in world.runs:
            stream = copy_in_stream(raw, namespace_of(hot).keys.run(run_id).events)
            copies = world.archive_set.copies(run_id)
            trimmed = places_of(stream, copies).keys() - stream.keys()
            lacking = sorted(name for name, copy in copies.items() if trimmed - copy.keys())
            if run_id in parked:
                if not lacking:
                    yield f"{run_id} is parked, and no archive lacks anything: {parked[run_id]}"
            elif lacking and verify_run(run_id, hot=hot, sinks=archives).is_sound:
                yield f"{run_id} passes for sound, and {lacking} lack what has left Redis"
            if strange := set(lacking) - world.archive_set.replaced.keys():
                yield f"{strange} lack what has left Redis of {run_id}"


def faults_of(world: World) -> Iterator[str]:
    """What is wrong in Redis, in the archives, and in what anybody was told or has seen."""
    said = hear((diary.lines, diary.was_killed) for diary in world.diaries)
    losses = world.server.losses > 0 and not world.plan.keeps
    with ExitStack() as stack:
        hot = stack.enter_context(world.open(Process("the host")))
        archives = [stack.enter_context(closing(archive)) for archive in world.archives()]
        parked: Collection[str] = namespace_of(hot).status().parked.keys() | world.were_parked.keys()
        raw = fakeredis.FakeRedis(server=world.server.fake)
        tiered = TieredCheckpointer(hot, archives[0])
        for run_id in (*world.runs, *world.own_runs):
            begin = _begin_of(world, hot, run_id)
            stream = _after(copy_in_stream(raw, namespace_of(hot).keys.run(run_id).events), begin)
            copies = {name: _after(copy, begin) for name, copy in world.archive_set.copies(run_id).items()}
            snapshot = None if run_id in parked else tiered.load_snapshot(run_id)
            steps = 0 if snapshot is None else snapshot.state.current_step
            found = judge(
                stream,
                copies,
                said[run_id],
                steps,
                is_parked=run_id in parked,
                losses=losses,
                retires=world.plan.retire_after_seconds is not None,
                resolved=world.resolved[run_id],
            )
            yield from (f"{run_id}: {fault}" for fault in found)
            if run_id not in parked:
                yield from (f"{run_id}: {fault}" for fault in _faults_of_drained(stream, copies))
                # of what a server has lost whole, one archive may have what nobody can bring to the others
                alike = [] if losses and hot.run_info(run_id) is None else archives
                found = _faults_of_states(run_id, snapshot, alike, losses=losses)
                yield from (f"{run_id}: {fault}" for fault in found)
                found = _faults_of_tags(run_id, said[run_id], tiered, alike, losses=losses)
                yield from (f"{run_id}: {fault}" for fault in found)
            # of a run that is parked, nobody can tell which history is the right one
            history = _history(stream, copies) if run_id not in parked else None
            yield from (f"{run_id}: {fault}" for fault in _faults_of_followers(world, run_id, history))
            if run_id not in parked:
                gone = said[run_id].gone(losses=losses)
                found = _faults_of_erasing(run_id, gone, world, hot)
                if not losses or run_id in world.settled:
                    found = chain(found, _faults_of_halves([stream, *copies.values()]))
                yield from (f"{run_id}: {fault}" for fault in found)
            elif losses and _has_one_parent(run_id, [hot, *archives]):
                reason = world.were_parked.get(run_id, "")
                was_deleted = any(batch.may_be_deleted for batch in said[run_id].sent)
                found = _faults_of_parking(stream, copies, reason, was_deleted=was_deleted)
                yield from (f"{run_id}: {fault}" for fault in found)
            if run_id in parked or losses:
                continue
            places = places_of(stream, copies)
            yield from _faults_of_snapshots(run_id, tiered, places)
            yield from _faults_of_pieces([piece for piece in world.pieces if piece.run_id == run_id], places)
            if not (verdict := verify_run(run_id, hot=hot, sinks=archives)).is_sound:
                yield f"{run_id} is not sound: {verdict.difference}"
        yield from faults_of_branches(world, hot, archives, parked)
    for loop in world.loops:
        yield from loop.failures


def _faults_of_states(run_id: str, snapshot: Any, archives: Sequence[Any], *, losses: bool) -> Iterator[str]:
    """Whether each archive has the run's state as its latest; or before those that a server has lost since."""
    kept = [archive.load_snapshot(run_id) for archive in archives]
    expected = kept[0] if losses and snapshot is None and kept else snapshot
    for archive, latest in zip(archives, kept, strict=True):
        if latest != expected and not (losses and expected in archive.snapshot_history(run_id)):
            yield f"{archive.location} has the snapshot {latest}, and is to have {expected}"


def _faults_of_parking(
    stream: Copy, copies: Mapping[str, Copy], reason: str, *, was_deleted: bool
) -> Iterator[str]:
    """Whether a run is parked for nothing: each archive has one history with Redis, and nothing is in the way.

    A failover may bring a run back that was deleted, and not the events that had left Redis before.
    """
    first = min((offset for offset, _ in stream), default=0)
    if was_deleted and any(first - 1 not in {offset for offset, _ in copy} for copy in copies.values()):
        return
    is_one = all(place in stream for copy in copies.values() for place in copy if place[0] >= first)
    if stream and is_one and not any(why in reason for why in _LATER):
        yield f"it is parked, and the archives have nothing else than Redis from {first} on: {reason}"


def _has_one_parent(run_id: str, stores: Sequence[Any]) -> bool:
    """Whether the stores that have a run take it for a fork of one run, or all of them for none."""
    infos = [store.run_info(run_id) for store in stores]
    return len({info.parent for info in infos if info is not None}) <= 1


def _faults_of_halves(copies: Sequence[Copy]) -> Iterator[str]:
    """What one place has of the content that another one has erased."""
    gone = {place for copy in copies for place, mark in copy.items() if is_left(mark)}
    left = {mark for copy in copies for place, mark in copy.items() if place in gone and not is_left(mark)}
    yield from (f"{mark} was erased in one place, and is in another" for mark in sorted(left))


def _faults_of_erasing(run_id: str, gone: Collection[str], world: World, hot: Any) -> Iterator[str]:
    """What is pending, and where the bytes of what was erased are still, in Redis or in a file of an archive.

    What a worker has asked for again as it ended is left to the next one: the run is due.
    """
    if namespace_of(hot).is_due(run_id):
        return
    yield from (f"{one} is pending" for one in hot.erasures(run_id) if not one.done)
    texts = [mark.encode() for mark in sorted(gone)]
    if not texts:
        return
    raw: Any = fakeredis.FakeRedis(server=world.server.fake)
    files = {str(path): path.read_bytes() for path in world.archive_set.files()}
    held = {str(key): repr(_content(raw, key)).encode() for key in raw.keys("*")}
    for place, content in {**files, **held}.items():
        if there := [text.decode() for text in texts if text in content]:
            yield f"{there[:3]} was erased and is in {place}"


def _content(raw: Any, key: bytes) -> Any:
    kind = raw.type(key)
    if kind == b"stream":
        return raw.xrange(key)
    return raw.hgetall(key) if kind == b"hash" else raw.zrange(key, 0, -1)


def _faults_of_tags(
    run_id: str, said: Testimony, store: Any, archives: Sequence[Any], *, losses: bool
) -> Iterator[str]:
    """What is wrong with a run's tags, in the store and in each archive, and with where they lead."""
    if not said.tags:
        return
    info = store.run_info(run_id)
    tags = {} if info is None else info.tags
    yield from ToldTags.faults(said.tags, tags, losses=losses)
    for archive in archives:
        kept = archive.run_info(run_id)
        if losses and info and kept and kept.last_offset > info.last_offset:
            continue  # it has what the server lost, its tags too; whoever reads both is told
        if (kept is None and info is not None) or (kept is not None and kept.tags != tags):
            yield f"{archive.location} has the tags {kept and kept.tags}, and the run {tags}"
    for name, its in said.tags.items():
        for value in {*its.possible, tags.get(name)} - {None}:
            is_found = run_id in {one.run_id for one in store.runs(tags={name: value})}
            if is_found != (tags.get(name) == value):
                yield f"it is {'' if is_found else 'not '}found by {name}={value}, and has {tags}"


def _faults_of_drained(stream: Copy, copies: Mapping[str, Copy]) -> Iterator[str]:
    """What each archive lacks of a run of which nobody has anything left to archive."""
    for name, copy in copies.items():
        if missing := stream.keys() - copy.keys():
            yield f"{name} has not, though all is drained, {[stream[place] for place in sorted(missing)[:3]]}"


def _begin_of(world: World, hot: Any, run_id: str) -> int:
    """The offset after which a run has its events itself; a fork that was lost may be a run of its own now."""
    if run_id not in world.branches:
        return 0
    (run,) = namespace_of(hot).load_runs([run_id])
    begin: int = world.branches[run_id].at
    return begin if run is None else min(begin, run.head.start.offset)


def _after(copy: Copy, offset: int) -> Copy:
    """The part of a copy after an offset: what a fork has itself, though it may have all of it by now."""
    return {place: mark for place, mark in copy.items() if place[0] > offset}


def _history(stream: Copy, copies: Mapping[str, Copy]) -> Sequence[str]:
    """The marks of a run's events, in order."""
    places = places_of(stream, copies)
    return [places[place] for place in sorted(places)]


def _faults_of_followers(world: World, run_id: str, history: Sequence[str] | None) -> Iterator[str]:
    """What is wrong with what the followers of a run have seen."""
    for followed in world.followed:
        if followed.run_id == run_id:
            # who was killed was not told of what was lost
            is_told = not (world.server.losses and followed.process and followed.process.is_dead)
            yield from _faults_of_follower(followed.seen, history if is_told else None)


def _faults_of_follower(seen: Sequence[tuple[int, str]], history: Sequence[str] | None) -> Iterator[str]:
    """What is wrong with what a follower has seen: offsets and marks."""
    if [offset for offset, _ in seen] != list(range(1, len(seen) + 1)):
        yield f"a follower saw a gap: {seen}"
    marks = [mark for _, mark in seen]
    if history is not None and marks != list(history[: len(marks)]):
        yield f"a follower saw {marks}, and there are {history}"


def _faults_of_snapshots(run_id: str, store: Any, history: Copy) -> Iterator[str]:
    """What is wrong with the snapshots of lanes whose agents note in them what they have sent."""
    lanes = {mark.strip("@").partition("/")[0] for mark in history.values() if not is_left(mark)}
    for lane in sorted(lanes):
        snapshot = store.load_snapshot(run_id, lane_id=lane)
        if snapshot is not None:
            count = snapshot.state.current_step
            if snapshot.state.data.get("number", 0) != count:
                yield f"{run_id}: the snapshot of {lane} is a mixture: {snapshot.state}"
            agent = snapshot.state.data.get("agent", lane)  # a forked child goes on in its parent's lane
            other = store.load_snapshot(run_id, lane_id=together_with(lane))
            if "text" in snapshot.state.data:
                if other is None or other.state != snapshot.state:
                    yield f"{run_id}: the snapshot of {lane} is {snapshot}, and the one saved with it {other}"
                ended = {one.lane_id: one.ended for one in store.lanes(run_id)}
                if ended[together_with(lane)] != ends_lanes(count):
                    yield f"{run_id}: {together_with(lane)} has state {count}, and has ended: {ended}"
            found = faults_of_snapshot(history, agent, snapshot.offset, count)
            yield from (f"{run_id}: {fault}" for fault in found)


def _faults_of_pieces(pieces: Sequence[Piece], history: Copy) -> Iterator[str]:
    """What readers got that the run does not have there, or did not get though it had been told."""
    marks = [history[place] for place in sorted(history)]
    for piece in pieces:
        end = piece.after + len(piece.marks)
        if list(piece.marks) != marks[piece.after : end]:
            yield f"{piece.what} of {piece.run_id} gave {piece.marks} after {piece.after}"
        if end < piece.upto:
            yield f"{piece.what} of {piece.run_id} ended with {end}, and {piece.upto} had been told"
