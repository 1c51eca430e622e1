"""Open a namespace: check the server, and learn how many partitions the namespace has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runstream.model.errors import ConfigurationError, StoreUnavailable
from runstream.model.results import E, S
from runstream.operations.operation import Exchange, Operation, Refusal
from runstream.stores.redis.keys import DEFAULT_PARTITIONS, MAX_PARTITIONS, Keys, namespace_config
from runstream.stores.redis.operations.server_policy import check_policy
from runstream.stores.redis.replies import parse_info
from runstream.stores.redis.session.session import Session

__all__ = ["open_namespace"]

MINIMUM_VERSION = (6, 2)


def open_namespace(session: Session[E, S], *, is_fake: bool = False) -> Operation[None]:
    """Check the server and the namespace, and note its partitions in the session.

    Every exchange may be made again, and what is written is the same however often.

    Raises ConfigurationError for a server that is too old, may evict keys or does not tell, and for a namespace
    that has another number of partitions than was asked for. Of fakeredis nothing is asked that it does not know.
    """
    try:
        yield from _open(session, is_fake)
    except StoreUnavailable as error:
        if error.next_step:
            error.next_step = "the store is not open: open it when the server is there"
        raise


def _open(session: Session[E, S], is_fake: bool) -> Operation[None]:
    info, time = yield Exchange([(b"INFO",), (b"TIME",)], tolerant=True)
    if not is_fake:
        _check_server(_told(info))
    if not isinstance(time, Refusal):  # so that the first append says when it was sent
        session.server_clock.update(b"%d%06d" % (int(time[0]), int(time[1])))
    config = namespace_config(session.namespace)
    if session.partitions is not None:
        Keys(session.namespace, session.partitions)  # refuses a bad number before it is written
    wanted = session.partitions or DEFAULT_PARTITIONS
    (noted,) = yield Exchange([(b"HGET", config, "partitions")])
    if noted is None:
        wanted = (yield from _noted_in_partitions(session, wanted)) or wanted
        _check_partitions(session, config, str(wanted).encode())
    (found,) = yield from _read_or_set_partitions([config], wanted)
    partitions = _check_partitions(session, config, found)
    keys = Keys(session.namespace, partitions)
    configs = [partition.config for partition in keys.partitions]
    for key, found in zip(configs, (yield from _read_or_set_partitions(configs, partitions)), strict=True):
        _check_partitions(session, key, found, partitions)
    session.open(keys)


def _noted_in_partitions(session: Session[E, S], wanted: int) -> Operation[int | None]:
    """The number of partitions that the partitions' own copies have; None where there are no copies.

    The namespace is new, or the key that has its number was removed: then the partitions decide.
    """
    some = Keys(session.namespace, max(wanted, DEFAULT_PARTITIONS)).partitions
    found = yield Exchange([(b"HGET", partition.config, "partitions") for partition in some])
    counts = {number for number in found if number is not None}
    if len(counts) > 1:
        raise ConfigurationError(
            f"the partitions of namespace {session.namespace!r} do not agree on how many there are"
            f" ({', '.join(sorted(count.decode(errors='backslashreplace') for count in counts))}), and key"
            f" {namespace_config(session.namespace)!r}, which says it, is gone: set its field 'partitions' again"
        )
    return next((_check_partitions(session, some[0].config, count) for count in counts), None)


def _read_or_set_partitions(configs: Sequence[str], wanted: int) -> Operation[list[bytes]]:
    """The number of partitions in each of these keys, once it was set in those that had none.

    Nothing is written where all have one: so a full server can be opened, and then drained.
    """
    queries = [(b"HGET", key, "partitions") for key in configs]
    found: list[bytes | None] = yield Exchange(queries)
    missing = [key for key, number in zip(configs, found, strict=True) if number is None]
    if missing:
        yield Exchange([(b"HSETNX", key, "partitions", wanted) for key in missing])
        found = yield Exchange(queries)
    return [number or b"" for number in found]


def _check_partitions(session: Session[E, S], key: str, found: bytes, wanted: int | None = None) -> int:
    wanted = session.partitions if wanted is None else wanted
    if not found.isdigit() or not 1 <= int(found) <= MAX_PARTITIONS:
        raise ConfigurationError(f"key {key!r} holds {found!r:.80} partitions: it is not a runstream namespace")
    if wanted is not None and int(found) != wanted:
        raise ConfigurationError(
            f"namespace {session.namespace!r} has {int(found)} partitions, not {wanted}: a namespace keeps the"
            f" number that it was created with; leave out partitions=, or use another namespace"
        )
    return int(found)


def _told(info: bytes | str | Refusal) -> Mapping[str, str]:
    """What the server tells of itself."""
    if isinstance(info, Refusal):
        raise ConfigurationError(
            f"{info.error}; runstream needs INFO: it shows whether the server evicts keys, and which server"
            " gave a lease; allow the user INFO, and do not rename it"
        )
    return parse_info(info)


def _check_server(info: Mapping[str, str]) -> None:
    version = info.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if len(numbers) == 2 and numbers < MINIMUM_VERSION:
        raise ConfigurationError(f"the server is Redis {version}; runstream needs Redis 6.2 or later, or Valkey")
    for name, guarantee in (
        ("maxmemory_policy", "whether the server evicts keys: acknowledged events would be gone without a word"),
        ("master_replid", "which server gave a lease: it would outlive a failover, and have two owners"),
    ):
        if not info.get(name):
            raise ConfigurationError(f"the server's INFO has no {name}; runstream needs it to know {guarantee}")
    check_policy(info)
