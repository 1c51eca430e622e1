"""Add an archive to those that a namespace requires, or drop one.

An archive that comes late lacks what has left Redis. So it gets that first, from one that has it. Then it is
required: from that moment on nothing leaves Redis that it does not hold. What left in between it gets after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeAlias

from runstream.drain.readback import find_mismatch
from runstream.history.archived import ArchivedHistory
from runstream.history.base import PAGE
from runstream.history.hot import HotHistory
from runstream.model.archive_records import RunBatch
from runstream.model.errors import ArchiveGap, ConfigurationError, CorruptRecordError, HistoryDiverged
from runstream.model.protocols import Sink
from runstream.model.results import RunInfo
from runstream.repair.proof import proven_records
from runstream.stores.capabilities import Archive, ErasesContent, archive_of, part_of
from runstream.stores.protocol import RunStore
from runstream.stores.redis.namespace import Namespace, namespace_of

__all__ = ["add_archive", "copy_run", "drop_archive"]

_BATCH = 1000

Hot: TypeAlias = RunStore[Any, Any]


def add_archive(
    hot: Hot,
    archive: Sink,
    copy_from: Sink | None = None,
    on_copied: Callable[[str, int], None] | None = None,
) -> None:
    """Require an archive in every partition, and make every run due, so that the archive gets what is in Redis.

    Broken off, it may be repeated, and goes on where it was.

    Args:
        hot: The Redis store.
        archive: The archive to add.
        copy_from: An archive that is required, from which to copy what has left Redis already.
        on_copied: Called with each run and the number of its events that were copied.

    Raises:
        ConfigurationError: The archive would lack what has left Redis, or holds other than Redis does; nothing new
            is required then.
    """
    namespace = namespace_of(hot)
    source = None if copy_from is None else archive_of(copy_from)
    before = namespace.required_archives()
    known = {uuid: location for of_partition in before for uuid, location in of_partition.items()}
    if source is not None:
        if source.archive_id not in known:
            raise ConfigurationError(f"{source.location} is not required here: copy from an archive that is")
        # also runs that Redis has nothing of any more: a late event would need what was before it
        _copy_runs(source, archive, source.run_ids(), on_copied)
    # what leaves Redis meanwhile is copied once nothing does any more
    _check_nothing_lacks(hot, archive, *([] if source is None else [source]))
    for info in hot.runs():
        _check_same(namespace, archive, info.run_id)
    mine = {archive.archive_id: archive.location}
    namespace.require_archives([mine if required else known | mine for required in before])
    late = [] if source is None else [info.run_id for info in _lacking(hot, archive)]
    if source is not None:
        _copy_runs(source, archive, late, on_copied)
    try:
        _check_nothing_lacks(hot, archive)
        for run_id in late:
            _check_same(namespace, archive, run_id)
    except ConfigurationError:  # a worker has trimmed in between, or the copy is of something else
        if archive.archive_id not in known:
            namespace.drop_archive(archive.archive_id)
        raise
    namespace.make_due(hot.list_runs())


def drop_archive(hot: Hot, archive_id: str) -> None:
    """Require an archive no longer.

    Args:
        hot: The Redis store.
        archive_id: The archive's UUID.

    Raises:
        ConfigurationError: It is the last one, which stays.
    """
    namespace = namespace_of(hot)
    required = namespace.required_archives()
    last = [number for number, archives in enumerate(required) if archives.keys() == {archive_id}]
    if last or (last := namespace.drop_archive(archive_id)):
        raise ConfigurationError(
            f"partition {last[0]} requires no other archive: without any, nothing would be proven; add one first"
        )


def _copy_runs(
    source: Archive, target: Sink, run_ids: Iterable[str], on_copied: Callable[[str, int], None] | None
) -> None:
    for run_id in run_ids:
        count = copy_run(source, target, run_id)
        if count and on_copied is not None:
            on_copied(run_id, count)


def copy_run(copy_from: Sink, target: Sink, run_id: str) -> int:
    """Copy what one archive has of a run and another lacks, and compare the copy.

    Args:
        copy_from: The archive that has it.
        target: The archive that gets it.
        run_id: The run.

    Returns:
        How many events were copied.

    Raises:
        HistoryDiverged: They have different histories.
        CorruptRecordError: What the one has does not give its chains.
        ArchiveGap: The copy does not match.
    """
    source = ArchivedHistory.load(archive_of(copy_from), run_id)
    position = target.position(run_id)
    if source is None:
        return 0
    at = begin = source.header.before_first if position is None else position.cursor
    if at.offset <= source.last.offset and at != source.at(at.offset):
        raise HistoryDiverged(
            f"{source.location} and {target.location} have different histories of run {run_id!r} at offset"
            f" {at.offset} or before: nothing of it was copied",
            run_id=run_id,
            offset=at.offset,
        )
    if position is None and (former := list(source.former())):
        target.write([RunBatch(source.header, at, former=former)])
    _copy_erasures(copy_from, target, source)
    while True:
        last = min(at.offset + _BATCH, source.last.offset)
        entries = source.page(at.offset + 1, last)
        for _ in proven_records(source, at, entries):
            pass  # each is proven as it comes
        last = entries[-1].offset if entries else last
        is_last = last >= source.last.offset
        snapshots = source.snapshots() if is_last else ()
        target.write([RunBatch(source.header, at, entries, snapshots)])
        tags, held = source.header.tags, target.position(run_id)
        if tags is not None and held is not None and held.tags != tags.version:
            tags = None  # it has later ones
        if (reason := find_mismatch(target, run_id, entries, snapshots, tags)) is not None:
            raise ArchiveGap(f"{reason}; the copy does not hold", run_id=run_id, expected=last, found=at.offset)
        at = entries[-1].cursor if entries else at
        if is_last:
            return max(0, at.offset - begin.offset)


def _copy_erasures(copy_from: Sink, target: Sink, source: ArchivedHistory) -> None:
    """Let the target know what was asked to be erased, before it gets anything of the run."""
    known, erases = part_of(copy_from, ErasesContent), part_of(target, ErasesContent)
    if known is not None and erases is not None:
        for note in known.erasure_notes(source.run_id):
            erases.erase_offsets(source.header, note, source.tokens().values())


def _lacking(hot: Hot, *archives: Sink) -> Iterator[RunInfo]:
    """The runs of which events have left Redis that none of the archives has."""
    namespace = namespace_of(hot)
    for info in hot.runs():
        positions = [archive.position(info.run_id) for archive in archives]
        if info.first_hot - 1 > max(0 if position is None else position.cursor.offset for position in positions):
            (run,) = namespace.load_runs([info.run_id])
            if run is not None and info.first_hot - 1 > run.head.before_first.offset:  # else it began there
                yield info


def _check_nothing_lacks(hot: Hot, archive: Sink, *sources: Sink) -> None:
    """Raise ConfigurationError where events have left Redis that neither the archive nor its sources have."""
    lacking = list(_lacking(hot, archive, *sources))
    if lacking:
        counted = "1 run" if len(lacking) == 1 else f"{len(lacking)} runs"
        raise ConfigurationError(
            f"{archive.location} lacks events that have left Redis, of {counted} (of"
            f" {lacking[0].run_id!r} up to offset {lacking[0].first_hot - 1}) and would be left with holes: copy"
            " them from an archive that has them, with --copy-from"
        )


def _check_same(namespace: Namespace, archive: Sink, run_id: str) -> None:
    """Raise ConfigurationError where an archive and Redis differ in a run that both have.

    Workers prove what comes after the archived mark. What an archive brings along from before it, a copy or what
    it got when it was required once, they would take to be proven: what has left Redis must give its own chains
    here. A history that is another one they see.
    """
    position = archive.position(run_id)
    redis = None if position is None else HotHistory.load(namespace, run_id)
    if position is None or redis is None:
        return
    last = min(position.cursor.offset, redis.last.offset)
    there = next(archive.read_back(run_id, last, last), None)
    if there is not None and there.cursor != redis.at(last):
        return
    first = redis.first
    if (history := ArchivedHistory.load(archive_of(archive), run_id)) is not None:
        _refuse(archive, run_id, _find_unproven(history, min(first - 1, last)))
        # of a fork that was detached it may have a fork still, until a worker has made the copy there
        first = max(first, history.header.before_first.offset + 1)
    while first <= last and (page := redis.page(first, min(first + PAGE - 1, last))):
        _refuse(archive, run_id, find_mismatch(archive, run_id, page, ()))
        first = page[-1].offset + 1
    tokens = position.snapshots
    held = [one for one in redis.snapshots() if tokens.get(one.lane_id) == one.token]
    tags = redis.header.tags
    _refuse(
        archive,
        run_id,
        find_mismatch(archive, run_id, (), held, tags if tags and tags.version == position.tags else None),
    )


def _find_unproven(history: ArchivedHistory, last: int) -> str | None:
    """Find where an archive's history, up to an offset, does not give its own chains; None: nowhere."""
    start = history.header.before_first
    try:
        for _ in proven_records(
            history, start, islice(history.entries(start.offset), max(0, last - start.offset))
        ):
            pass
    except (CorruptRecordError, HistoryDiverged) as error:
        return str(error)
    return None


def _refuse(archive: Sink, run_id: str, reason: str | None) -> None:
    if reason is not None:
        raise ConfigurationError(
            f"{reason} (run {run_id!r}): it, or what it was copied from, was changed, and nothing leaves Redis on"
            f" its word. Remove {archive.location} and add an empty one, copied from an archive that is sound"
        )
