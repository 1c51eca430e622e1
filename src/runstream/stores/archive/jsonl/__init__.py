"""Runs as JSON lines in directories: a store, and a sink of the drain worker.

==============================  ==================================================================
:mod:`.file_names`              run ids and lanes as file names
:mod:`.line_format`             entries as lines of a log
:mod:`.log_index`               what a pass over a log's lines finds
:mod:`.run_head`                where a run stands, from the two ends of its log
:mod:`.snapshot_files`          snapshots as files
:mod:`.snapshot_history_file`   their history
:mod:`.file_locks`              files written whole, locks between processes
:mod:`.directory`               the archive's directory: its UUID, which directory is which run's
:mod:`.run_log`                 one run's directory and how a batch is written to it
:mod:`.write_batch`             what one call adds to any number of runs, written as a whole
:mod:`.repair`                  what a person puts right
:mod:`.run_logs`                how the logs are got at, and where each run stands
:mod:`.operations`              what the archive does
:mod:`.checkpointer`            the archive as a user opens it
==============================  ==================================================================
"""

from runstream.stores.archive.jsonl.checkpointer import JSONLCheckpointer

__all__ = ["JSONLCheckpointer"]
