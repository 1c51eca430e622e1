"""Runs in one SQLite file: a store, and a sink of the drain worker.

=====================  =========================================================================
:mod:`.rows`           the rows that tell where a run stands, and transactions
:mod:`.adopting`       what purpose-agent wrote, made part of the archive
:mod:`.schema`         the tables, and how a file gets them
:mod:`.place`          whether the archive's files are still those that are open
:mod:`.file`           the file, opened: threads, forks, what went wrong in our own words
:mod:`.history`        the history of snapshots
:mod:`.leases`         leases, by the clock of the host
:mod:`.deleting`       how a run goes, and does not come back
:mod:`.additions`      what a transaction adds: appends, and a drain's batches
:mod:`.mending`        what a person puts right
:mod:`.checking`       what the file has beside the histories that it tells
:mod:`.store`          the store
=====================  =========================================================================
"""

from runstream.stores.archive.sqlite.checkpointer import SQLiteCheckpointer

__all__ = ["SQLiteCheckpointer"]
