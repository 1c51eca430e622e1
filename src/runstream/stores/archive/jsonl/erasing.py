"""Erase in an archive of JSON lines."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from runstream.model.archive_records import RunHeader
from runstream.model.erasures import ErasedPlace, ErasureNote
from runstream.model.errors import ConfigurationError
from runstream.model.results import Cursor
from runstream.stores.archive.eraser import Eraser
from runstream.stores.local.erase_plan import EraseOrder, ErasePlan

__all__ = ["JSONLEraser"]


class JSONLEraser(Eraser):
    """The part of an archive of JSON lines that erases."""

    def carry_out(self, order: EraseOrder) -> tuple[ErasureNote, ErasePlan]:
        """Refuse it."""
        raise ConfigurationError(f"an archive of JSON lines cannot erase anything of run {order.run_id!r} yet")

    def erase_offsets(self, header: RunHeader, note: ErasureNote, clean: Collection[str] = ()) -> None:
        """Refuse it."""
        del note, clean
        raise ConfigurationError(f"an archive of JSON lines cannot erase anything of run {header.run_id!r} yet")

    def truncate_history(self, header: RunHeader, note: ErasureNote, base: Cursor) -> None:
        """Refuse it."""
        del note, base
        raise ConfigurationError(f"an archive of JSON lines cannot erase anything of run {header.run_id!r} yet")

    def erasure_notes(self, run_id: str) -> Sequence[ErasureNote]:
        """None."""
        del run_id
        return ()

    def where_erased(self) -> ErasedPlace:
        """Nothing was."""
        return ErasedPlace("jsonl:", done=True)
