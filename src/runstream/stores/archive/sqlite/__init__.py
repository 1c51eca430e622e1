"""Runs in one SQLite file: a store, and a sink of the drain worker.

=======================  =========================================================================
:mod:`.queries`          the rows of runs and lanes, and transactions
:mod:`.foreign_rows`     what purpose-agent wrote, made part of the archive
:mod:`.drained_runs`     what purpose-agent wrote that is not adopted
:mod:`.schema`           the tables, and how a file gets them
:mod:`.file_identity`    whether the archive's files are still those that are open
:mod:`.connection`       the file, opened: threads, forks, errors of runstream
:mod:`.snapshot_table`   the history of snapshots
:mod:`.lease_table`      leases, by the clock of the host
:mod:`.deletion`         deletes runs, and remembers it
:mod:`.write_batch`      adds appends and a drain's batches in a transaction
:mod:`.repair`           readmits records, cuts a branch off
:mod:`.integrity`        facts to compare the histories with
:mod:`.operations`       the operations of the archive
:mod:`.checkpointer`     the archive as a user opens it
=======================  =========================================================================
"""

from runstream.stores.archive.sqlite.checkpointer import SQLiteCheckpointer

__all__ = ["SQLiteCheckpointer"]
