"""Parse replies of the server, from RESP2, which has no maps, and RESP3 alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, reduce
from typing import Any, NamedTuple

from runstream.codec.chain import CHAIN_MODULUS, next_chain
from runstream.model.archive_records import RunHeader
from runstream.model.errors import InvalidRunId
from runstream.model.identifiers import check_run_id
from runstream.model.results import Cursor
from runstream.model.run_head import Origin, Origins, RunHead, RunStart
from runstream.model.tags import NO_TAGS, TagSet

__all__ = [
    "Parent",
    "Peak",
    "Retired",
    "gone_field",
    "noted_cursor",
    "noted_left",
    "noted_size",
    "noted_start",
    "noted_tags",
    "noted_time",
    "origins_text",
    "parent_text",
    "parse_cursor",
    "parse_info",
    "parse_map",
    "parse_news",
    "parse_offset",
    "parse_origins",
    "parse_parent",
    "parse_peak",
    "parse_records",
    "parse_retired",
    "parse_scores",
    "parse_start",
    "parse_tags",
    "parse_texts",
    "run_id_of",
    "start_text",
    "tag_names",
]

_MICROSECONDS = 1_000_000
_LONGEST_LANE_IN_FULL = 24
_LARGEST = 2**53
"""No number that a script of ours has written is larger."""


def parse_map(reply: Any) -> dict[bytes, bytes]:
    """Parse the fields and values of a hash."""
    if isinstance(reply, Mapping):
        return dict(reply)
    flat = iter(reply)
    return dict(zip(flat, flat, strict=True))


def parse_news(reply: Any) -> list[tuple[str, Sequence[Any]]]:
    """Parse the reply to XREAD: the streams that have something new, and the entries, which are not parsed."""
    if not reply:
        return []
    pairs = reply.items() if isinstance(reply, Mapping) else reply
    return [(key.decode(), entries) for key, entries in pairs]


def parse_texts(reply: Any) -> dict[str, str]:
    """Parse a hash of texts for people: what is not UTF-8 is escaped."""
    pairs = parse_map(reply).items()
    return {
        name.decode(errors="backslashreplace"): value.decode(errors="backslashreplace") for name, value in pairs
    }


def parse_info(reply: bytes | str) -> dict[str, str]:
    """Parse the reply to INFO: values by name."""
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value for name, colon, value in pairs if colon}


class ServerVersion(NamedTuple):
    """What a server is.

    Attributes:
        program: ``"Redis"`` or ``"Valkey"``.
        version: Its version; None if it does not tell.
        of_redis: The first two numbers of the version of Redis that it is like; fewer if it does not tell.
    """

    program: str
    version: str | None
    of_redis: tuple[int, ...]

    @property
    def tells_of_syncs(self) -> bool:
        """Whether its WAITAOF waits for a file that is synced once a second: Valkey's does not."""
        return self.program == "Redis" and self.of_redis >= (8, 0)


def server_version(info: Mapping[str, str]) -> ServerVersion:
    """What a server is, by what INFO says."""
    like = info.get("redis_version")
    numbers = tuple(int(part) for part in (like or "").split(".")[:2] if part.isdigit())
    if (valkey := info.get("valkey_version")) is not None:
        return ServerVersion("Valkey", valkey, numbers)
    return ServerVersion("Redis", like, numbers)


def run_id_of(member: bytes) -> str | None:
    """The id of a run; None for a member that can be none."""
    try:
        run_id = member.decode()
        check_run_id(run_id)
    except (UnicodeDecodeError, InvalidRunId):
        return None
    return run_id


def parse_scores(reply: Any) -> list[tuple[str, int]]:
    """Parse the runs in a sorted set with their scores, which are whole microseconds.

    A member that is no run's id is left out.
    """
    if reply and isinstance(reply[0], list | tuple):
        pairs = [(member, score) for member, score in reply]
    else:
        flat = iter(reply)
        pairs = list(zip(flat, flat, strict=True))
    return [
        (run_id, int(max(-_LARGEST, min(float(score), _LARGEST))))
        for member, score in pairs
        if (run_id := run_id_of(member)) is not None
    ]


def parse_cursor(text: bytes) -> Cursor:
    """Parse a cursor: an entry's id, or a field of meta."""
    offset, _, chain = text.partition(b"-")
    return Cursor(int(offset), int(chain))


def start_text(run: RunHead | RunHeader) -> str:
    """Meta's field ``start``, which names this very creation of a run.

    ``OFFSET-CHAIN``; a fork's is ``OFFSET-CHAIN-IDENTITY``.
    """
    return f"{run.start}-{run.identity}" if run.identity else str(run.start)


@lru_cache(maxsize=1024)  # each reply of a run has the same one
def parse_start(text: bytes) -> RunStart:
    """Parse meta's field ``start``."""
    offset, _, names = text.partition(b"-")
    chain, _, identity = names.partition(b"-")
    return RunStart(0, int(identity)) if identity else RunStart(int(offset), int(chain))


def noted_cursor(text: bytes) -> Cursor:
    """Parse a cursor that meta notes. Raises ValueError for one that no script of ours has written."""
    cursor = parse_cursor(text)
    if not (0 <= cursor.offset <= _LARGEST and 0 <= cursor.chain < CHAIN_MODULUS):
        raise ValueError(f"{text.decode()!r:.80} is no cursor")
    return cursor


def noted_start(text: bytes) -> tuple[Cursor, int]:
    """Parse meta's field ``start``: the cursor, and a fork's identity, or 0.

    Raises ValueError for one that no script of ours has written.
    """
    offset, _, names = text.partition(b"-")
    chain, _, identity = names.partition(b"-")
    number = int(identity or b"0")
    if not 0 <= number < CHAIN_MODULUS:
        raise ValueError(f"{text.decode()!r:.80} is no start")
    return noted_cursor(b"%b-%b" % (offset, chain)), number


def noted_size(text: bytes | None) -> int | None:
    """Parse meta's field ``largest``, in bytes; None where there is none.

    Raises ValueError for one that no script of ours has written.
    """
    if text is None:
        return None
    size = int(text)
    if not 0 < size <= _LARGEST:
        raise ValueError(f"{text.decode()!r:.80} is no size")
    return size


def noted_left(retired: bytes | None, ended: bytes | None) -> str:
    """What meta notes of the snapshots that have left Redis, of a run and of lanes that had ended, as one text."""
    return f"{(retired or b'').decode()} / {(ended or b'').decode()}"


def noted_time(text: bytes) -> float:
    """Parse a time that meta notes, in microseconds. Returns Unix time in seconds.

    Raises ValueError for one that no script of ours has written.
    """
    time = int(text)
    if not 0 <= time <= _LARGEST:
        raise ValueError(f"{text.decode()!r:.80} is no time")
    return time / _MICROSECONDS


def noted_tags(version: bytes | None) -> TagSet:
    """The version of a run's tags that meta notes, without the tags. Raises ValueError for what is none."""
    if version is None:
        return NO_TAGS
    tags = TagSet(version.decode())
    if not 0 < tags.number <= _LARGEST:
        raise ValueError(f"{tags.version!r:.80} is no version of tags")
    return tags


def parse_tags(version: bytes | None, reply: Any) -> TagSet:
    """Parse the hash of a run's tags.

    Args:
        version: What meta notes of them; where that is None, the run has no tags, whatever is there.
        reply: The fields and values of the hash.

    Raises:
        ValueError: It is not there, or was written by no script of ours.
    """
    if version is None:
        return NO_TAGS
    values = {name.decode(): value.decode() for name, value in parse_map(reply).items()}
    if "" not in values:
        raise ValueError("it was removed, or its version was")
    return TagSet(noted_tags(values.pop("").encode()).version, values)


def tag_names(reply: Any) -> list[str]:
    """The names in the hash of a run's tags; no script of ours has written one that is not UTF-8."""
    names = []
    for name in parse_map(reply):
        with suppress(UnicodeDecodeError):
            names.append(name.decode())
    return [name for name in names if name]


def parse_offset(text: bytes) -> int:
    """Parse only the offset of a cursor."""
    return int(text.partition(b"-")[0])


class Parent(NamedTuple):
    """Meta's field ``parent``: the run that a run is a branch or fork of, and where it parts.

    Attributes:
        run: The run, and the offset; None for a run that is neither.
        creation: Which run of that name it is; 0 for a branch, which has no part of its history.
    """

    run: tuple[str, int] | None = None
    creation: int = 0


def parse_origins(text: bytes | None) -> Origins:
    """Parse meta's field ``origin``: ``OFFSET LENGTH:RUN`` of each, one after the other, LENGTH in bytes."""
    found, left = [], text or b""
    while left:
        offset, _, left = left.partition(b" ")
        length, _, left = left.partition(b":")
        found.append(Origin(int(offset), left[: int(length)].decode()))
        left = left[int(length) :]
    return tuple(found)


def origins_text(origins: Origins) -> str:
    """The same as text; '' for none."""
    return "".join(f"{upto} {len(run_id.encode())}:{run_id}" for upto, run_id in origins)


def parse_parent(text: bytes | None) -> Parent:
    """Parse meta's field ``parent``, ``OFFSET:RUN`` for a branch and ``OFFSET-CREATION:RUN`` for a fork."""
    if not text:
        return Parent()
    numbers, _, run_id = text.decode().partition(":")
    offset, _, creation = numbers.partition("-")
    return Parent((run_id, int(offset)), int(creation or 0))


def parent_text(run: RunHead | RunHeader) -> str:
    """The same as text; '' for a run that is neither branch nor fork."""
    if run.parent is None:
        return ""
    run_id, offset = run.parent
    return f"{offset}-{run.parent_identity}:{run_id}" if run.parent_identity else f"{offset}:{run_id}"


class Peak(NamedTuple):
    """Meta's field ``peak``: the highest ``seq`` of the events up to an offset, which have all left Redis."""

    offset: int
    seq: int


def parse_peak(meta: Mapping[bytes, bytes]) -> Peak | None:
    """Parse meta's field ``peak``; None where there is none."""
    text = meta.get(b"peak")
    return Peak(*map(int, text.split())) if text else None


class Retired(NamedTuple):
    """What meta keeps of the snapshots of a retired run, or of lanes that left Redis as they were ended.

    It is for one who asks for the run's or one lane's.

    Attributes:
        run_revision: The revision of the run's own snapshot; 0 if there was none.
        lane_revision: That of the lane's snapshot; 0 if there was none. Of a run that 0.1.0 has retired, and of
            lanes that were ended, only the highest of all is known.
        offset: The last offset that was retired, or at which a lane was that left; None in a tombstone, where all
            of the run was retired.
    """

    run_revision: int
    lane_revision: int
    offset: int | None = None

    def had_snapshot(self, lane_id: str | None) -> bool:
        """Whether the run (None), or the lane that was asked for, had a snapshot."""
        return self.revision(lane_id) > 0

    def revision(self, lane_id: str | None) -> int:
        """The revision of the run's (None) snapshot, or of the lane's that was asked for."""
        return self.run_revision if lane_id is None else self.lane_revision

    def token(self, lane_id: str | None) -> str:
        """The token that stands for a snapshot that left Redis; '' if there was none."""
        return f"retired-{self.revision(lane_id)}" if self.had_snapshot(lane_id) else ""


def gone_field(lane_id: str) -> str:
    """Meta's field with the revision of a lane's snapshot that left Redis; see common.lua."""
    name = lane_id.encode()
    if len(name) <= _LONGEST_LANE_IN_FULL:
        return f"gone:{lane_id}"
    return f"gone#{reduce(next_chain, name, 0)}"


def parse_retired(
    text: bytes | None,
    ended: bytes | None = None,
    unlisted: bytes | None = None,
    of_lane: bytes | None = None,
    back: bytes | None = None,
    mark: bytes | None = None,
) -> Retired | None:
    """Parse meta's fields ``retired`` and ``ended``; None for a run that was not retired, and lost no lane.

    Args:
        text: The field ``retired``.
        ended: The field ``ended``.
        unlisted: The field ``unlisted``.
        of_lane: The lane's own field, of which :func:`gone_field` is the name.
        back: The lane's field ``back``.
        mark: The lane's field ``lane``.
    """
    if not text and not ended:
        return None
    retired = Retired(*map(int, text.split())) if text else Retired(0, 0, 0)
    if text and (kept := of_lane or unlisted):
        retired = retired._replace(lane_revision=int(kept))
    if ended:
        at, highest = map(int, ended.split())
        if retired.offset is not None:
            retired = retired._replace(offset=max(retired.offset, at))
        if not of_lane and (back or not mark):  # it may be one of those that left
            retired = retired._replace(lane_revision=max(retired.lane_revision, int(back or highest)))
    return retired


def parse_records(entries: Sequence[Any]) -> list[bytes]:
    """The wire records of stream entries; for an entry with other fields than ours, all that it holds."""
    return [fields[1] if len(fields) == 2 and fields[0] == b"e" else b" ".join(fields) for _, fields in entries]
