"""Open a namespace: check the server, and learn how many partitions the namespace has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runstream.model.errors import ConfigurationError, StoreUnavailable
from runstream.model.results import E, S
from runstream.operations.operation import Exchange, Operation, Refusal
from runstream.stores.redis.keys import DEFAULT_PARTITIONS, MAX_PARTITIONS, Keys, PartitionKeys, namespace_config
from runstream.stores.redis.operations.client.durability import learn_confirmation
from runstream.stores.redis.operations.server_policy import check_policy
from runstream.stores.redis.replies import parse_info, server_version
from runstream.stores.redis.session.session import Session

__all__ = ["check_server", "open_namespace"]

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


def _ask_server(session: Session[E, S], is_fake: bool) -> Operation[Mapping[str, str]]:
    """What the server tells of itself, which is fit; nothing, of fakeredis. Its time is noted."""
    info, time = yield Exchange([(b"INFO",), (b"TIME",)], permissive=True)
    told: Mapping[str, str] = {}
    if not is_fake:
        check_server(told := _told(info))
        yield from learn_confirmation(session, session.durability, told)
    if not isinstance(time, Refusal):  # so that the first append says when it was sent
        session.server_clock.update(b"%d%06d" % (int(time[0]), int(time[1])))
    return told


def _open(session: Session[E, S], is_fake: bool) -> Operation[None]:
    told = yield from _ask_server(session, is_fake)
    config = namespace_config(session.namespace)
    if session.partitions is not None:
        Keys(session.namespace, session.partitions)  # refuses a bad number
    (found,) = yield from _numbers([config])
    if found is None:
        known = yield from _noted_in_partitions(session)
    else:
        known = _checked(session, config, found)
    partitions = known or session.partitions or DEFAULT_PARTITIONS
    keys = Keys(session.namespace, partitions)
    copies = [partition.config for partition in keys.partitions]
    # all is looked at before anything is written: what is refused leaves nothing behind
    missing = []
    for key, number in zip(copies, (yield from _numbers(copies)), strict=True):
        if number is None:
            missing.append(key)
        else:
            _checked(session, key, number, partitions)
    # first the namespace's own, so that of two openers with two numbers one wins
    if found is None and _checked(session, config, (yield from _set([config], partitions))[0]) != partitions:
        yield from _open(session, is_fake)  # another opener was first: as it has it
        return
    if missing:
        yield from _note_complete([one for one in keys.partitions if one.config in missing])
        for key, now in zip(missing, (yield from _set(missing, partitions, permissive=True)), strict=True):
            # a user who may only read leaves it as it is
            _checked(session, key, now or b"%d" % partitions, partitions)
    session.open(keys, gives_any=is_fake)
    if not is_fake:
        yield from learn_confirmation(session, session.durability, told)


def _noted_in_partitions(session: Session[E, S]) -> Operation[int | None]:
    """The number of partitions that the partitions' own copies have; None where there are no copies.

    The namespace is new, or the key that has its number was removed: then the partitions decide.
    """
    some = Keys(session.namespace, max(session.partitions or 0, DEFAULT_PARTITIONS)).partitions
    found = yield from _numbers([partition.config for partition in some])
    counts = {number for number in found if number is not None}
    if len(counts) > 1:
        raise ConfigurationError(
            f"the partitions of namespace {session.namespace!r} do not agree on how many there are"
            f" ({', '.join(sorted(count.decode(errors='backslashreplace') for count in counts))}), and key"
            f" {namespace_config(session.namespace)!r}, which says it, is gone: set its field 'partitions' again"
        )
    return next((_checked(session, some[0].config, count) for count in counts), None)


def _numbers(configs: Sequence[str]) -> Operation[list[bytes | None]]:
    """The number of partitions in each of these keys; None where there is none."""
    found: list[bytes | None] = yield Exchange([(b"HGET", key, "partitions") for key in configs])
    return found


def _set(configs: Sequence[str], partitions: int, *, permissive: bool = False) -> Operation[list[bytes]]:
    """Set the number in those of these keys that have none; the numbers that they have now.

    It is for keys that lack one: where all have one nothing is written, so that a full server can be opened, and
    then drained.
    """
    yield Exchange([(b"HSETNX", key, "partitions", partitions) for key in configs], permissive=permissive)
    return [number or b"" for number in (yield from _numbers(configs))]


def _note_complete(partitions: Sequence[PartitionKeys]) -> Operation[None]:
    """Note that the indexes of tags are complete where a partition has no runs; see tagged.lua."""
    listed = yield Exchange([(b"EXISTS", partition.runs) for partition in partitions], permissive=True)
    empty = [partition for partition, is_there in zip(partitions, listed, strict=True) if is_there == 0]
    if empty:
        yield Exchange([(b"HSETNX", partition.config, "tagged", "1") for partition in empty], permissive=True)


def _checked(session: Session[E, S], key: str, found: bytes, wanted: int | None = None) -> int:
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


def check_server(info: Mapping[str, str]) -> None:
    """Raise ConfigurationError for a server that is too old, may evict keys or hides that, by its INFO."""
    server = server_version(info)
    if len(server.of_redis) == 2 and server.of_redis < MINIMUM_VERSION:
        raise ConfigurationError(
            f"the server is Redis {server.version}; runstream needs Redis 6.2 or later, or Valkey"
        )
    for name, guarantee in (
        ("maxmemory_policy", "whether the server evicts keys: acknowledged events would be gone without a word"),
        ("master_replid", "which server gave a lease: it would outlive a failover, and have two owners"),
    ):
        if not info.get(name):
            raise ConfigurationError(f"the server's INFO has no {name}; runstream needs it to know {guarantee}")
    check_policy(info)
