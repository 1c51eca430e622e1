"""Translate the errors of redis-py and of servers into those of runstream."""

from __future__ import annotations

import re

from redis import exceptions

from runstream.model.errors import ConfigurationError, RunstreamError, StoreUnavailable

__all__ = ["is_full", "is_passing", "translate"]

# refused for now: the server is there, but this node cannot serve it at this moment. Redis 6.2 wraps what a
# script is refused in a text of its own, so the text is searched, too.
_PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
    exceptions.TryAgainError,
    OSError,
)
_PASSING_TEXT = re.compile(
    r"\b(LOADING|READONLY|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|NOREPLICAS|BUSY|MISCONF|UNBLOCKED)\b"
)
_FULL_TEXT = re.compile(r"\bOOM\b|used memory > 'maxmemory'")


def is_full(error: BaseException | None) -> bool:
    """Whether the server refused a command because it has no memory left: waiting does not help."""
    return isinstance(error, exceptions.OutOfMemoryError) or (
        isinstance(error, exceptions.ResponseError) and _FULL_TEXT.search(str(error)) is not None
    )


def is_passing(error: BaseException) -> bool:
    """Whether the same commands will be taken a little later, or by another node."""
    return isinstance(error, _PASSING) or (
        isinstance(error, exceptions.ResponseError) and _PASSING_TEXT.search(str(error)) is not None
    )


def translate(error: Exception) -> RunstreamError:
    """The error of runstream for one of redis-py or of the operating system."""
    if isinstance(error, exceptions.AuthenticationError):  # a ConnectionError too, but waiting does not help
        return ConfigurationError(f"the server refused the user name or password: {error}")
    if isinstance(error, exceptions.NoPermissionError):
        return ConfigurationError(f"the user has no permission for that: {error}")
    if isinstance(error, exceptions.MaxConnectionsError):
        return StoreUnavailable(
            "all connections of the client are in use: nothing was sent; give it a larger max_connections, or a"
            " pool that waits (redis.BlockingConnectionPool)"
        )
    if is_full(error):
        return StoreUnavailable(
            f"the server is full ({error}); nothing was written: drain it, or give it more memory, and send again"
        )
    if isinstance(error, exceptions.ResponseError) and not is_passing(error):
        return _refused(error)
    said = str(error).rstrip(".")
    return StoreUnavailable(f"cannot reach the server: {said}; it is safe to send the same call again")


def _refused(error: exceptions.ResponseError) -> RunstreamError:
    text = str(error)
    if isinstance(error, exceptions.AskError):  # MovedError is one too
        return ConfigurationError(
            f"the key lies at another node of a cluster ({text}), and this client knows one server only:"
            " use a server that is no cluster, or one node that has all slots"
        )
    if "WRONGTYPE" in text or "equal or smaller" in text:
        return ConfigurationError(
            f"a key of this namespace holds data of another program ({text}); use another namespace"
        )
    if "unknown command" in text and "HELLO" in text:
        return ConfigurationError(
            f"the server is older than Redis 6 ({text}); runstream needs Redis 6.2 or Valkey"
        )
    return ConfigurationError(f"the server refused a command: {text}")
