"""The snapshots of a tiered store: the latest is in Redis or the archive, the history in the archive."""

from __future__ import annotations

from collections.abc import Sequence

from runstream.model.erasures import Spans, may_hold
from runstream.model.errors import EventsArchived
from runstream.model.identifiers import check_run_id
from runstream.model.results import E, S, Snapshot, SnapshotInfo
from runstream.model.run_head import RunStart
from runstream.operations.arguments import check_count
from runstream.operations.kept_snapshots import highest_first
from runstream.operations.operation import Items, Operation, Stream, pass_on
from runstream.stores.tiered.boundary import HotAndArchive
from runstream.stores.tiered.hot_operations import HotOperations

__all__ = ["TieredSnapshots"]


class TieredSnapshots(HotAndArchive[E, S]):
    """What is asked of the snapshots of a tiered store's runs."""

    def load_snapshot(self, run_id: str, lane_id: str | None) -> Operation[Snapshot[S] | None]:
        """The latest snapshot: Redis's, or, where that has left Redis, the archive's."""
        return self._latest_snapshot(self.hot, run_id, lane_id)

    def _peek_snapshot(self, run_id: str, lane_id: str | None) -> Operation[Snapshot[S] | None]:
        """The latest snapshot, without noting it for this writer: its next one is not made from that."""
        return self._latest_snapshot(self.hot.for_one_writer(), run_id, lane_id)

    def _latest_snapshot(
        self, hot: HotOperations[E, S], run_id: str, lane_id: str | None
    ) -> Operation[Snapshot[S] | None]:
        try:
            snapshot = yield from hot.load_snapshot(run_id, lane_id)
            if snapshot is not None or (yield from self.hot.run_info(run_id)) is not None:
                return snapshot
        except EventsArchived as moved:
            yield from self.check_archived(run_id, moved.first_hot - 1, moved.first_hot, is_hot=True)
        # asked before the archive: for one that is retired after this, another token stands
        token, start = yield from hot.retired_token(run_id, lane_id)
        archived, is_left = yield from self._kept(run_id, lane_id, start)
        if archived is not None and token:  # this writer goes on from it, or replaces it
            hot.note_snapshot(run_id, lane_id, token, archived.revision)
            hot.note_loaded(run_id, lane_id, start, archived.offset if is_left else start.offset)
        return archived if is_left else None

    def _kept(
        self, run_id: str, lane_id: str | None, start: RunStart, spans: Spans | None = None
    ) -> Operation[tuple[Snapshot[S] | None, bool]]:
        """The latest snapshot that the archive has, and whether it stays there.

        It goes where it may hold content that is to be erased, and no worker has been there yet. ``spans`` are the
        offsets of that; None: they are asked for.
        """
        archived = yield from self.archive.load_snapshot(run_id, lane_id)
        if archived is None:
            return None, False
        if spans is None:
            spans = yield from self.hot.to_be_erased(run_id)
        return archived, not spans or not may_hold(archived.offset, start.offset, spans[0][0])

    def snapshot_lanes(self, run_id: str) -> Operation[list[str | None]]:
        """The lanes of which either store has snapshots; first None, if there are some of the run's own."""
        check_run_id(run_id)
        lanes = {*(yield from self.hot.snapshot_lanes(run_id))}
        lanes |= {*(yield from self.archive.snapshot_lanes(run_id))}
        return sorted(lanes, key=lambda lane_id: (lane_id is not None, lane_id or ""))

    def kept_snapshots(self, run_id: str, lane_id: str | None) -> Operation[list[SnapshotInfo]]:
        """The snapshots that the archive keeps, and Redis's latest, without their states."""
        try:
            latest = yield from self.hot.kept_snapshots(run_id, lane_id)
        except EventsArchived as moved:  # the archive's own latest is the run's
            yield from self.check_archived(run_id, moved.first_hot - 1, moved.first_hot, is_hot=True)
            latest = []
        return highest_first([*(yield from self.archive.kept_snapshots(run_id, lane_id)), *latest])

    def snapshot_history(self, run_id: str, lane_id: str | None) -> Stream:
        """The snapshots that the archive has seen, in order, and then the latest one, if it has not seen that."""
        last: Snapshot[S] | None = None

        def note(page: Sequence[Snapshot[S]]) -> Sequence[Snapshot[S]]:
            nonlocal last
            last = page[-1] if page else last
            return page

        yield from pass_on(self.archive.snapshot_history(run_id, lane_id), note)
        latest = yield from self._peek_snapshot(run_id, lane_id)
        if latest is not None and (last is None or latest.revision > last.revision):
            yield Items([latest])

    def snapshot_at(self, run_id: str, offset: int, lane_id: str | None) -> Operation[Snapshot[S] | None]:
        """The snapshot that covers most up to an offset: Redis's latest, or one of the archive's history.

        The archive has those that were the latest when a drain worker read the run; the others are gone.
        """
        check_count("offset", offset)
        latest = yield from self._peek_snapshot(run_id, lane_id)
        if latest is None or latest.offset == offset:
            return latest
        kept = yield from self.archive.snapshot_at(run_id, offset, lane_id)
        if latest.offset > offset or (kept is not None and kept.offset > latest.offset):
            return kept
        return latest
