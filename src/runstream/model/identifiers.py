"""Names and tokens: what may name a run, a lane or a session, and random tokens for snapshots and leases.

A name is part of a key in Redis and a column in SQLite.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, cast

from runstream.model.errors import ConfigurationError, EncodingError, InvalidRunId

__all__ = [
    "MAIN_LANE",
    "MAX_NAME_BYTES",
    "check_iterable",
    "check_keys",
    "check_name",
    "check_run_id",
    "event_run_id",
    "glimpse",
    "is_utf8",
    "kind_of",
    "lease_token",
    "one_of_kind",
    "random_token",
    "shown",
    "snapshot_lane",
    "told",
]

MAX_NAME_BYTES = 512
"""The longest name, in bytes of UTF-8."""

MAIN_LANE = "main"
"""The lane of a run that has no other."""


def snapshot_lane(lane_id: str | None) -> str | None:
    """The lane whose snapshot the writer of a lane saves: the main lane's writer saves the run's own (None)."""
    return None if lane_id == MAIN_LANE else lane_id


def lease_token(ttl_seconds: float) -> str:
    """A random name for a lease, with how long it lasts (microseconds) behind a dot, to judge its deadline."""
    return f"{random_token()}.{int(ttl_seconds * 1_000_000)}"


def random_token() -> str:
    """A token that nobody else has, to name one snapshot or one lease.

    Revisions and epochs can be given out twice after a failover; tokens cannot.
    """
    return secrets.token_urlsafe(12)


def glimpse(value: Any) -> str:
    """Show the beginning of an option's value: the rest may be a secret that stands in the wrong place.

    Args:
        value: Any value.

    Returns:
        What ``shown`` gives, of a text of more than four characters the first three alone.
    """
    return shown(value[:3] + "…" if isinstance(value, str) and len(value) > 4 else value)


def shown(value: Any) -> str:
    """Show a value in the message of an error.

    Args:
        value: Any value: a repr that fails, as that of an integer of 5,000 digits does, is no second error.

    Returns:
        Its repr, of which at most 80 characters; its type where it has none.
    """
    try:
        return f"{value!r:.80}"
    except Exception:  # noqa: BLE001 - the repr is the caller's own, and may raise anything
        return f"<{type(value).__module__}.{type(value).__qualname__}>"


def kind_of(value: Any) -> str:
    """What a value is, in the message that it is the wrong thing: its type, and the step that was forgotten.

    Args:
        value: Any value.
    """
    name = type(value).__qualname__
    return f"{name}: await it first" if hasattr(type(value), "__await__") else name


def one_of_kind(value: Any) -> str:
    """``kind_of`` with its article: "an int", "a str"."""
    kind = kind_of(value)
    return f"an {kind}" if kind[0] in "aeioAEIO" else f"a {kind}"


def check_iterable(name: str, values: Any, *, instead: str) -> None:
    """Refuse what is no collection: a single one of its items, or a coroutine that was to be awaited.

    Args:
        name: What it is an argument for.
        values: A list, or another iterable of items.
        instead: What to do with a single item.

    Raises:
        EncodingError: It is something else.
    """
    if not hasattr(type(values), "__iter__"):
        raise EncodingError(f"{name}: pass a list, not {one_of_kind(values)}; {instead}", path=name)


def event_run_id(event: Any) -> str:
    """The run that an event names.

    Args:
        event: The event.

    Raises:
        EncodingError: It is no event.
        InvalidRunId: What it names cannot name a run.
    """
    run_id = getattr(event, "run_id", None)
    if run_id is None and not hasattr(event, "run_id"):
        raise EncodingError(
            f"an event has a run_id, and this is {one_of_kind(event)}; runstream.create_event makes an event, and"
            " save_events takes several",
            path="event",
        )
    check_run_id(run_id)
    return cast("str", run_id)


def told(error: BaseException) -> str:
    """What an error of the caller's own code says, for the message of ours.

    Args:
        error: The error; its text may fail in turn.

    Returns:
        Its type and its text.
    """
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - the text is the caller's own, and may raise anything
        return type(error).__name__


def _utf8_size(text: str) -> int | None:
    """The length in bytes, or None for text that UTF-8 cannot carry (a lone surrogate)."""
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return None


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can carry a text: it has no lone surrogates.

    Args:
        text: The text.
    """
    return _utf8_size(text) is not None


def check_run_id(run_id: Any) -> None:
    """Refuse what cannot name a run.

    Args:
        run_id: A plain string of 1 to 512 bytes of UTF-8.

    Raises:
        InvalidRunId: It is something else.
    """
    if type(run_id) is not str:  # an Enum that is a str is another text in an f-string than it is equal to
        raise InvalidRunId(f"a run id is a plain string, not {type(run_id).__name__} ({shown(run_id)})")
    if 1 <= len(run_id) <= MAX_NAME_BYTES and run_id.isascii():
        return  # as nearly all are
    size = _utf8_size(run_id)
    if size is None:
        raise InvalidRunId(f"run id {run_id!r:.80} has characters that UTF-8 cannot carry (lone surrogates)")
    if not 1 <= size <= MAX_NAME_BYTES:
        raise InvalidRunId(f"a run id has 1 to {MAX_NAME_BYTES} bytes of UTF-8, this one has {size}")


def check_name(field: str, value: Any) -> None:
    """Refuse what cannot name a lane, a session or the like.

    Args:
        field: What it is the value of, for the error.
        value: A plain string of at most 512 bytes of UTF-8.

    Raises:
        EncodingError: It is something else; ``path`` is the field.
    """
    if type(value) is not str:
        raise EncodingError(f"{field} is a plain string, not {type(value).__name__} ({shown(value)})", path=field)
    if len(value) <= MAX_NAME_BYTES and value.isascii():
        return  # as nearly all are
    size = _utf8_size(value)
    if size is None:
        raise EncodingError(f"{field} has characters that UTF-8 cannot carry: {value!r:.80}", path=field)
    if size > MAX_NAME_BYTES:
        raise EncodingError(f"{field} has {size} bytes of UTF-8; at most {MAX_NAME_BYTES} are allowed", path=field)


def check_keys(keys: Sequence[str | None], count: int) -> None:
    """Refuse what cannot be the callers' keys of some events.

    Args:
        keys: One name, or None, for each event.
        count: How many events there are.

    Raises:
        ConfigurationError: There are not as many.
        EncodingError: One is no name; ``path`` is ``key``.
    """
    if isinstance(keys, str) or not isinstance(keys, Sequence) or len(keys) != count:  # a text is a sequence too
        raise ConfigurationError(f"keys={shown(keys)}: pass one key, or None, for each of the {count} events")
    for key in keys:
        if key is not None:
            check_name("key", key)
