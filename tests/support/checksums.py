"""Let an archive look as if a program had changed it that writes no checksums, as version 0.1.0 did."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from runstream.stores.archive.sqlite.row_checksums import row_checksum

__all__ = ["forget_checksums", "without_checksums"]

_HEAD = (
    "run_id, start_offset, start_chain, last_offset, last_chain, status, session_id, created_at, updated_at,"
    " parent_run_id, parent_offset"
)


def without_checksums(lines: bytes) -> bytes:
    """Lines or snapshots of a JSONL archive, without their checksums."""
    return re.sub(rb'(,"\$state_checksum":\d+)?,"\$checksum":\d+\}$', b"}", lines, flags=re.MULTILINE)


def forget_checksums(path: str | Path) -> None:
    """Leave no row, line or snapshot a checksum; those that every row must have are made anew."""
    if Path(path).is_dir():
        for each in (*Path(path).rglob("*.jsonl"), *Path(path).rglob("snapshot*.json")):
            each.write_bytes(without_checksums(each.read_bytes()))
        return
    with closing(sqlite3.connect(path)) as file, file:
        for table in ("events", "quarantine"):
            file.execute(f"UPDATE {table} SET checksum = NULL")
        for table in ("snapshots", "lane_snapshots", "snapshot_history"):
            file.execute(f"UPDATE {table} SET checksum = NULL, state_checksum = NULL")
        file.create_function("of_row", -1, row_checksum)
        file.execute(f"UPDATE runs SET checksum = of_row({_HEAD})")
        file.execute("UPDATE lanes SET checksum = of_row(run_id, lane_id, last_offset)")
