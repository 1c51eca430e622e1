"""Runs in one SQLite file: a store, and a sink of the drain worker.

=======================  =========================================================================
:mod:`.queries`          the rows that tell where a run stands, and transactions
:mod:`.foreign_rows`     what purpose-agent wrote, made part of the archive
:mod:`.schema`           the tables, and how a file gets them
:mod:`.file_identity`    whether the archive's files are still those that are open
:mod:`.connection`       the file, opened: threads, forks, errors in our own words
:mod:`.snapshot_table`   the history of snapshots
:mod:`.lease_table`      leases, by the clock of the host
:mod:`.deletion`         how a run goes, and does not come back
:mod:`.write_batch`      what a transaction adds: appends, and a drain's batches
:mod:`.repair`           what a person puts right
:mod:`.integrity`        what the file has beside the histories that it tells
:mod:`.operations`       what the archive does
:mod:`.checkpointer`     the archive as a user opens it
=======================  =========================================================================
"""

from runstream.stores.archive.sqlite.checkpointer import SQLiteCheckpointer

__all__ = ["SQLiteCheckpointer"]
