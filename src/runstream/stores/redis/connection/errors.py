"""Translate the errors of redis-py and of servers into those of runstream."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence

from redis import exceptions

from runstream.model.errors import ConfigurationError, RunstreamError, StoreUnavailable
from runstream.operations.operation import Command
from runstream.stores.redis.command_keys import keys_of
from runstream.stores.redis.damage import corrupt_key, foreign_key
from runstream.stores.redis.keys import expected_type, run_of_key

__all__ = [
    "breaks_connection",
    "doubtful_keys",
    "is_denied",
    "is_full",
    "is_of_replica",
    "is_passing",
    "is_right_refused",
    "moved_to",
    "redirection_of",
    "refusal_of",
    "translate",
]

# refused for now: the server is there, but this node cannot serve it at this moment. Redis 6.2 wraps what a
# script is refused in a text of its own, so the text is searched, too.
_PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.NoScriptError,  # after it was sent: to another server, in a failover
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
    exceptions.TryAgainError,
    OSError,
)
_PASSING_TEXT = re.compile(
    r"\b(LOADING|READONLY|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|NOREPLICAS|BUSY|MISCONF|UNBLOCKED)\b"
)
# a key of another type than the command is for, an entry that the stream cannot take, or a value in a hash that a
# script of ours cannot work with: what is there is not what was written by us
_DAMAGE_TEXT = re.compile(
    r"WRONGTYPE|equal or smaller|Invalid stream ID|not an integer|not a (valid )?float|"
    r"user_script:\d+: (attempt to|bad argument|invalid value)"
)
# a command that the user may not call, or that the server does not have, alone or inside a script
_RIGHT_TEXT = re.compile(r"no permissions to run|can't run this command|[Uu]nknown .*command")
_REDIRECTION = re.compile(r"(?:.* caused error: )?(MOVED|ASK) (\d+ \S*:\d+)$", re.DOTALL)
_IN_SCRIPT = re.compile(r"[Uu]nknown .*from (Lua )?script|can't run this command|ACL failure in script")
# redis-py's BlockingConnectionPool says so by a plain ConnectionError, its other pools did before 6.0 and 7.0
_NONE_FREE = re.compile("No connection available|Too many connections")
_UNKNOWN = "unknown command"
_NO_DATABASE = "DB index is out of range"
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")
_CERTIFICATE_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE")  # parts of the names of alerts
_OWN_CERTIFICATE = "a certificate that the server takes goes with ?ssl_certfile=FILE&ssl_keyfile=FILE in the URL"
_ENDS = (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError)
_PLAIN_PORT = "where the port is not for TLS, write redis:// in place of rediss://, or give the port that is"
# what it was called with, which in AUTH and HELLO is the password
_ARGUMENTS = re.compile(r",? with args beginning with:.*", re.DOTALL)
_FULL_TEXT = re.compile(r"\bOOM\b|used memory > 'maxmemory'")


SEND_AGAIN = (
    "whether the call took effect is unknown: send the same events again on this store object, and they are"
    " applied once; any other call may be repeated as it is"
)
"""What to do next where a reply was lost: a Run, which makes new events at each call, says something else."""


def is_full(error: BaseException | None) -> bool:
    """Whether the server refused a command because it has no memory left: waiting does not help."""
    return isinstance(error, exceptions.OutOfMemoryError) or (
        isinstance(error, exceptions.ResponseError) and _FULL_TEXT.search(str(error)) is not None
    )


def is_right_refused(error: exceptions.RedisError) -> bool:
    """Whether the server refused a command that the user may not call, or that it does not have."""
    return _RIGHT_TEXT.search(str(error)) is not None


def is_denied(error: exceptions.RedisError) -> bool:
    """Whether the server denied a command to the user, or a key."""
    is_denied = isinstance(error, exceptions.NoPermissionError)
    return is_denied or (is_right_refused(error) and "nknown" not in str(error))


def is_passing(error: BaseException) -> bool:
    """Whether the same commands will be taken a little later, or by another node."""
    return isinstance(error, _PASSING) or (
        isinstance(error, exceptions.ResponseError) and _PASSING_TEXT.search(str(error)) is not None
    )


def is_of_replica(error: object) -> bool:
    """Whether it says that the server is a replica: the address may lead to another one by now."""
    # 6.2 wraps that of a script
    return isinstance(error, exceptions.ResponseError) and (
        isinstance(error, exceptions.ReadOnlyError) or "READONLY" in str(error)
    )


def redirection_of(error: object) -> exceptions.AskError | None:
    """What tells of the server of a cluster that has a key (a MovedError is an AskError); None for all else."""
    if isinstance(error, exceptions.AskError):
        return error
    # before 6 redis-py tells it apart only in connections of a RedisCluster
    found = _REDIRECTION.match(str(error)) if isinstance(error, exceptions.ResponseError) else None
    if found is None:
        return None
    kind = exceptions.MovedError if found[1] == "MOVED" else exceptions.AskError
    return kind(found[2])


def moved_to(slot: int, host: str, port: int) -> exceptions.MovedError:
    """What a server of a cluster says of a key in a slot that another one has."""
    return exceptions.MovedError(f"{slot} {host}:{port}")


def breaks_connection(reply: object) -> bool:
    """Whether redis-py takes a reply for a broken connection."""
    return isinstance(reply, exceptions.ConnectionError)


def translate(error: Exception, *, is_tls: bool = False) -> RunstreamError:
    """The error of runstream for one of redis-py or of the operating system; ``is_tls``: the client speaks TLS."""
    _hide_arguments(error)
    return _refusal(error) or _unavailable(error, is_tls)


def _hide_arguments(error: BaseException | None) -> None:
    """Take out of an error, and of those that it comes from, what an unknown command was called with."""
    while error is not None:
        if _ARGUMENTS.search(str(error)):
            error.args = (_ARGUMENTS.sub("", str(error)),)
        error = error.__cause__ or error.__context__


def _refusal(error: Exception) -> ConfigurationError | None:
    """What is wrong for good, so that waiting does not help."""
    # what a sentinel says is the cause of a ConnectionError in an asyncio client
    if (refused := _cause(error, exceptions.AuthenticationError)) is not None:  # a ConnectionError too
        return ConfigurationError(f"the server refused the user name or password: {refused}")
    if (denied := _cause(error, exceptions.NoPermissionError)) is not None:
        return ConfigurationError(f"the user has no permission for that: {denied}")
    if _NO_DATABASE in str(error):  # of an asyncio client it is a ConnectionError
        return ConfigurationError(
            f"the server has no database of that number ({error}): most have 0 to 15, a cluster has 0 alone; give"
            " one that is there (redis://HOST:PORT/0), and separate what shares it by namespaces (?namespace=dev)"
        )
    is_answer = isinstance(error, exceptions.ResponseError) and not is_passing(error) and not is_full(error)
    if is_answer or _UNKNOWN in str(error):  # of an asyncio client it is a ConnectionError
        return _refused(error)
    return _tls_refusal(error)


def _unavailable(error: Exception, is_tls: bool) -> StoreUnavailable:
    """What may pass."""
    said = str(error).rstrip(".")
    if isinstance(error, exceptions.ConnectionError) and _NONE_FREE.match(said):
        return StoreUnavailable(
            "all connections of the client are in use, so that nothing was sent; give it a larger max_connections,"
            " or a pool that waits for longer (redis.BlockingConnectionPool)"
        )
    if is_full(error):
        return StoreUnavailable(
            f"the server is full ({error}), and nothing was written: drain it, or give it more memory",
            next_step="then send the same events again",
        )
    if is_of_replica(error):
        return StoreUnavailable(
            f"the server is a replica and takes no writes ({said}): give the address of the primary, or wait until"
            " a failover has made a primary of this one"
        )
    if is_tls and isinstance(error, exceptions.TimeoutError) and "connecting" in said:
        return StoreUnavailable(
            f"the server does not answer the TLS handshake ({said}): {_PLAIN_PORT}, or wait until it is reached"
        )
    if isinstance(error, exceptions.TryAgainError):
        return StoreUnavailable(f"a slot of the cluster is being moved ({said})", next_step=SEND_AGAIN)
    if isinstance(error, exceptions.ClusterDownError):
        return StoreUnavailable(
            f"the cluster is not whole ({said}): see CLUSTER INFO, and CLUSTER NODES for what has failed",
            next_step=SEND_AGAIN,
        )
    if is_tls and _cause(error, *_ENDS) is not None:  # an alert that came before it may not have been read
        return StoreUnavailable(
            f"the server has ended the TLS connection ({said}): it goes down, or it wants a certificate of the"
            f" client, or another one; {_OWN_CERTIFICATE}",
            next_step=SEND_AGAIN,
        )
    is_answer = isinstance(error, exceptions.ResponseError | exceptions.BusyLoadingError)
    what = "the server refuses it for now" if is_answer else "cannot reach the server"
    return StoreUnavailable(f"{what}: {said}", next_step=SEND_AGAIN)


def _tls_refusal(error: BaseException) -> ConfigurationError | None:
    """What is wrong if a TLS connection can never come about in this way; None if that is not known."""
    cause = _cause(error, ssl.SSLError)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ConfigurationError(
            f"the server's certificate is refused: {cause.verify_message.rstrip('.')}; name the authority that"
            " signed it (?ssl_ca_certs=FILE in the URL), and the host as the certificate does"
        )
    reason: str = getattr(cause, "reason", None) or ""
    if reason in _NO_TLS:
        return ConfigurationError(f"the server does not speak TLS ({reason}): {_PLAIN_PORT}")
    _, _, alert = reason.partition("_ALERT_")
    if any(part in alert for part in _CERTIFICATE_ALERTS):
        return ConfigurationError(
            f"the server refuses the client's certificate, or its want of one ({alert}): {_OWN_CERTIFICATE}"
        )
    return None


def _cause(error: BaseException | None, *kinds: type[BaseException]) -> BaseException | None:
    """The error of one of these kinds that an error is, or comes from; None: it comes from none."""
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error


def _refused(error: Exception) -> ConfigurationError:
    text = str(error)
    if redirection_of(error) is not None:
        return ConfigurationError(
            f"the key lies at another server of a cluster ({text}), and this client knows one server only: open it"
            " as redis+cluster://HOST:PORT, or pass a redis.RedisCluster"
        )
    if _UNKNOWN in text and "HELLO" in text:
        return ConfigurationError(
            f"the server is older than Redis 6 ({text}); runstream needs Redis 6.2 or Valkey"
        )
    if _IN_SCRIPT.search(text):
        return ConfigurationError(
            f"a right was taken away, and the server refused a script in its midst ({text}); what that had begun"
            " of a run is finished by the next append to it, or by `runstream verify --repair`: send the same"
            " events again, and they are there once; the next call names what is missing"
        )
    return ConfigurationError(f"the server refused a command: {text}")


def doubtful_keys(commands: Sequence[Command], replies: Sequence[object]) -> list[str]:
    """The keys of the commands that were refused because one of them is of another type than it must be."""
    refused = [
        command
        for command, reply in zip(commands, replies, strict=True)
        if isinstance(reply, exceptions.ResponseError) and "WRONGTYPE" in str(reply)
    ]
    return list({key: None for command in refused for key in _names_in(command)})


def refusal_of(error: exceptions.RedisError, command: Command, types: Mapping[str, object]) -> RunstreamError:
    """The error of runstream for a command that was refused for good.

    Args:
        error: What the server said.
        command: The command.
        types: What the server says of the types of its doubtful keys.
    """
    text = str(error)
    if not isinstance(error, exceptions.ResponseError) or not _DAMAGE_TEXT.search(text):
        return translate(error)
    keys = _names_in(command)
    for key in keys:
        found, expected = types.get(key), expected_type(key)
        if expected is not None and isinstance(found, bytes) and found.decode() not in ("none", expected):
            return foreign_key(key, found.decode())
    for key in keys:
        run_id = run_of_key(key)
        if run_id is not None:
            of_run = [one for one in keys if run_of_key(one) is not None]
            meta = next((one for one in of_run if one.endswith(":meta")), key)
            why = f"the server cannot work with what it holds, or another of {', '.join(of_run)} ({text})"
            return corrupt_key(run_id, meta, why)
    return ConfigurationError(
        f"a key of this namespace ({', '.join(keys)}) is damaged, or another program's ({text}); rename it out of"
        " the way, or use another namespace"
    )


def _names_in(command: Command) -> list[str]:
    """The names of the keys of a command."""
    keys = keys_of(command)
    return [key.decode(errors="backslashreplace") if isinstance(key, bytes) else str(key) for key in keys]
