"""Damaged keys: what a key holds is not what runstream keeps there.

A damaged key of a run concerns that run alone, so it is a CorruptRecordError that names both. A key of a partition
concerns all of its runs: that is a ConfigurationError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from shlex import quote

from runstream.model.errors import ConfigurationError, CorruptRecordError, RunstreamError
from runstream.stores.redis.keys import RunKeys, expected_type, run_of_key

__all__ = ["corrupt_key", "foreign_key", "parsing"]


def corrupt_key(run_id: str, key: str, why: str) -> CorruptRecordError:
    """The error for a damaged key of a run.

    Args:
        run_id: The run.
        key: The key.
        why: What is wrong with it.
    """
    shell_word = quote(run_id)
    return CorruptRecordError(
        f"key {key!r} of run {run_id!r} is damaged: {why}; no other run is affected: see `runstream verify"
        f" {shell_word}`, which puts right what it can with --repair; or delete the run and restore it: `runstream"
        f" restore {shell_word}`",
        run_id=run_id,
        key=key,
    )


def foreign_key(key: str, found: str) -> RunstreamError:
    """The error for a key of a type that runstream does not keep there.

    Args:
        key: The key.
        found: Its type, as the server says.
    """
    why = f"it is a {found}, and must be a {expected_type(key)}"
    run_id = run_of_key(key)
    if run_id is not None:
        return corrupt_key(run_id, key, why)
    return ConfigurationError(
        f"key {key!r} is damaged, or another program's: {why}; rename it out of the way, or use another namespace"
    )


@contextmanager
def parsing(run: RunKeys, key: str | None = None) -> Iterator[None]:
    """Raise CorruptRecordError for what does not parse within.

    Args:
        run: The keys of the run that is parsed.
        key: The one that it was read from; None: its meta.
    """
    try:
        yield
    except KeyError as error:
        raise corrupt_key(run.run_id, key or run.meta, f"it has no field {_text(error.args[0])!r}") from error
    except (ValueError, TypeError, IndexError) as error:
        raise corrupt_key(run.run_id, key or run.meta, str(error)) from error


def _text(field: object) -> object:
    return field.decode(errors="backslashreplace") if isinstance(field, bytes) else field
