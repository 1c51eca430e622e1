"""Erase and truncate in the runs of one machine's stores, each as one blocking call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from runstream.model.erasures import ErasedPlace, Erasure, ErasureNote, Spans
from runstream.model.identifiers import check_run_id
from runstream.model.results import E, S
from runstream.model.run_head import SnapshotHead
from runstream.operations.arguments import check_leased, grant_of
from runstream.operations.erase_arguments import EraseOptions, TruncateOptions, check_before
from runstream.operations.operation import in_one_call
from runstream.stores.local.erase_plan import EraseOrder, ErasePlan
from runstream.stores.local.forks import LocalForks
from runstream.stores.local.lease_rules import no_leases

__all__ = ["Erasing"]


class Erasing(LocalForks[E, S]):
    """The part of a local store's operations that erases content and truncates histories."""

    _has_leases: ClassVar[bool] = True
    _require_lease: bool
    _clock: Callable[[], float]
    _known: dict[tuple[str, str | None], SnapshotHead]

    @abstractmethod
    def _carry_out(self, order: EraseOrder) -> tuple[ErasureNote, ErasePlan]:
        """Plan an erasure, make it and note it, in one atomic step."""

    @abstractmethod
    def erasure_notes(self, run_id: str) -> Sequence[ErasureNote]:
        """The erasures that are noted of a run, in the order in which they were asked for."""

    @abstractmethod
    def where_erased(self) -> ErasedPlace:
        """What has become of what was erased here; what could not be finished yet is tried again first."""

    @in_one_call
    def erase(self, run_id: str, spans: Spans, options: EraseOptions) -> Erasure:
        """Erase the content at these offsets for good; offsets, chains and callers' keys stay."""
        given = (self._known.get((run_id, lane_id)) for lane_id in options.given)
        clean = [saved.token for saved in given if saved is not None]
        grant = grant_of(run_id, options.lease)
        return self._erased(EraseOrder(run_id, spans, None, clean, options.drop_snapshots, grant))

    @in_one_call
    def truncate(self, run_id: str, before: int, options: TruncateOptions) -> Erasure:
        """Remove the events before an offset: the history begins with it from then on."""
        check_before(before)
        return self._erased(
            EraseOrder(run_id, before=before, clean=options.clean, grant=grant_of(run_id, options.lease))
        )

    @in_one_call
    def erasures(self, run_id: str) -> list[Erasure]:
        """What was asked to be erased of a run; what could not be finished yet is tried again first."""
        check_run_id(run_id)
        notes = self.erasure_notes(run_id)
        places = [self.where_erased()] if notes else []
        return [Erasure.of(run_id, note, places) for note in notes]

    def _erased(self, order: EraseOrder) -> Erasure:
        check_run_id(order.run_id)
        if order.grant is not None and not self._has_leases:
            raise no_leases(order.run_id)
        if self._require_lease:
            check_leased(order.run_id, (), order.grant)
        note, plan = self._carry_out(order)
        # a fork that began with one of these has it still
        for known in [known for known in self._known if known[0] == order.run_id]:
            if self._known[known].token in plan.dropped:
                del self._known[known]
        return Erasure.of(order.run_id, note, [self.where_erased()])
