"""Runs as JSON lines in directories: a store, and a sink of the drain worker.

==============================  ==================================================================
:mod:`.file_names`              run ids and lanes as file names
:mod:`.line_format`             entries as lines of a log
:mod:`.log_index`               indexes the lines of a log
:mod:`.run_head`                a run's head, from the two ends of its log
:mod:`.snapshot_files`          snapshots as files
:mod:`.snapshot_history_file`   their history
:mod:`.file_locks`              writes files completely, locks between processes
:mod:`.directory`               the archive's directory: its UUID, which directory is which run's
:mod:`.overtaking`              notices lines that other programs append meanwhile
:mod:`.run_log`                 one run's directory and how a batch is written to it
:mod:`.run_snapshots`           which snapshots of a run count
:mod:`.write_batch`             writes all that one call adds to any number of runs
:mod:`.repair`                  readmits records, cuts a branch off
:mod:`.drained_runs`            what other programs wrote that does not count
:mod:`.run_logs`                access to the logs, and each run's head
:mod:`.operations`              the operations of the archive
:mod:`.checkpointer`            the archive as a user opens it
==============================  ==================================================================
"""

from runstream.stores.archive.jsonl.checkpointer import JSONLCheckpointer

__all__ = ["JSONLCheckpointer"]
