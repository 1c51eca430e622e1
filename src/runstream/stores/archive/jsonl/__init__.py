"""Runs as JSON lines in directories: a store, and a sink of the drain worker.

=====================  =========================================================================
:mod:`.names`          run ids and lanes as file names
:mod:`.lines`          entries as lines of a log
:mod:`.history`        what a pass over a log's lines tells
:mod:`.standing`       where a run stands
:mod:`.snapshots`      snapshots as files
:mod:`.snapshot_log`   their history
:mod:`.disk`           fsync, locks between processes
:mod:`.home`           the archive's directory: its UUID, and which directory is which run's
:mod:`.logfile`        one run's directory and how a batch is written to it
:mod:`.reading`        what the log has between two offsets
:mod:`.additions`      what one call adds to any number of runs, written as a whole
:mod:`.mending`        what a person puts right
:mod:`.runs`           how the logs are got at, and where each run stands
:mod:`.store`          the store
=====================  =========================================================================
"""

from runstream.stores.archive.jsonl.checkpointer import JSONLCheckpointer

__all__ = ["JSONLCheckpointer"]
