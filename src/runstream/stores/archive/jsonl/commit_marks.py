"""The commit mark at the end of a batch in a run's log: what was committed, and what it says of the run. Pure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any, NamedTuple

from runstream.codec.own_stack import with_room
from runstream.model.erasures import ErasureNote
from runstream.model.identifiers import is_utf8
from runstream.model.run_head import EndedLane
from runstream.stores.archive.jsonl.tag_notes import TagNote

__all__ = ["Mark", "TellingMarks", "are_texts", "dump", "is_time", "load"]

_LATEST = 2.0**63  # seconds
_TELLING = (b'"snapshots":', b'"kept":', b'"ended":', b'"erased":')


class Mark(NamedTuple):
    """A commit mark: the run's status after this batch, and the batch's snapshots.

    ``updated_at`` is Unix time in seconds; ``snapshots`` has pairs of lane and token. ``dropped`` has the lanes
    whose snapshots went with the branch that was cut off here; ``kept`` the tokens of those in the history that
    did not, and is None where nothing was cut off. ``drained``: the batch came by a drain, and what other programs
    write from then on is no part of the run's history. ``ended`` has the ends of lanes, ``tags`` what it says
    of the run's tags. ``erased`` has all erasures of the run so far, and is empty in a mark that notes none.
    """

    status: str
    updated_at: float
    session_id: str = ""
    snapshots: tuple[tuple[str | None, str], ...] = ()
    dropped: tuple[str | None, ...] = ()
    kept: tuple[str, ...] | None = None
    drained: bool = False
    ended: tuple[EndedLane, ...] = ()
    tags: TagNote = TagNote()
    erased: tuple[ErasureNote, ...] = ()

    def dump(self) -> str:
        """The mark as JSON."""
        members: dict[str, Any] = {"status": self.status, "updated_at": self.updated_at}
        if self.session_id:
            members["session_id"] = self.session_id
        if self.snapshots:  # pairs, not an object: a lane's name must not look like a member of ours
            members["snapshots"] = self.snapshots
        if self.dropped:
            members["dropped"] = self.dropped
        if self.kept is not None:
            members["kept"] = self.kept
        if self.tags.version:
            members["tags"] = self.tags.dump()
        if self.drained:
            members["drained"] = True
        if self.ended:
            members["ended"] = self.ended
        if self.erased:
            members["erased"] = [(note.requested_at, note.text) for note in self.erased]
        return dump(members)

    @classmethod
    @lru_cache(maxsize=8)  # of the last one in a log it is asked twice: what the run is, and what it tells
    def load(cls, text: bytes) -> Mark:
        """The mark that was dumped. Raises ValueError for anything else."""
        members = load(text)
        try:
            snapshots = tuple((lane_id, token) for lane_id, token in members.get("snapshots", ()))
            noted = (members["status"], members.get("updated_at", 0.0), members.get("session_id", ""))
            kept = members.get("kept")
            dropped, drained = tuple(members.get("dropped", ())), members.get("drained", False) is True
            ended = tuple(EndedLane(*end) for end in members.get("ended", ()))
            tags = TagNote.load(members.get("tags", ("",)))
            erased = tuple(ErasureNote.parse(float(at), text) for at, text in members.get("erased", ()))
            stay = None if kept is None else tuple(kept)
            mark = cls(*noted, snapshots, dropped, stay, drained, ended, tags, erased)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no commit mark: {type(error).__name__}: {error}") from error
        texts = (mark.status, mark.session_id, *(token for _, token in snapshots), *(mark.kept or ()))
        texts += tuple(text for end in ended for text in (end.lane_id, end.token))
        lanes = (*(lane_id for lane_id, _ in snapshots), *mark.dropped)
        are_offsets = all(type(end.offset) is int for end in ended)
        if (
            not are_offsets
            or not are_texts(texts)
            or not are_texts(lane or "" for lane in lanes)
            or not is_time(mark.updated_at)
        ):
            raise ValueError("no commit mark: a member is of another type")
        return mark

    @staticmethod
    def tells_more(text: bytes) -> bool:
        """Whether the mark that was dumped may name any snapshots, end lanes or erase; without reading it."""
        # inside a JSON string a backslash comes before the second quote
        return any(member in text for member in _TELLING)

    @staticmethod
    def is_drained(text: bytes) -> bool:
        """Whether the mark that was dumped is of a drain; without reading it."""
        return b'"drained":true' in text


def load(text: bytes) -> Any:
    """What a JSON text says. Raises ValueError for anything else."""
    return with_room(json.loads, text.decode())  # not of bytes: some that are damaged pass for UTF-16 or UTF-32


def are_texts(values: Iterable[Any]) -> bool:
    """Whether all of these are strings that UTF-8 can carry."""
    return all(isinstance(value, str) and is_utf8(value) for value in values)


def is_time(value: Any) -> bool:
    """Whether this is Unix time in seconds."""
    return type(value) in (int, float) and -_LATEST < value < _LATEST


def dump(value: Any) -> str:
    """A value as JSON in one line."""
    # ASCII: what we add must never make a line unreadable
    return json.dumps(value, separators=(",", ":"))


class TellingMarks:
    """What the commit marks of a log say of snapshots, of the ends of lanes, and of what was erased."""

    def __init__(self) -> None:
        self._unread: list[bytes] = []
        self._tokens: set[str] = set()
        self._latest: dict[str | None, str] = {}
        self._ends: dict[str, EndedLane] = {}
        self._erased: tuple[ErasureNote, ...] = ()

    def take(self, text: bytes) -> None:
        """Take note of a commit mark that counts."""
        if Mark.tells_more(text):
            self._unread.append(text)

    @property
    def tokens(self) -> AbstractSet[str]:
        """The tokens of all snapshots that were committed with this history, the latest and those before."""
        self._read()
        return self._tokens

    @property
    def latest(self) -> Mapping[str | None, str]:
        """The token of the last snapshot that was committed of each lane (None: of the run)."""
        self._read()
        return self._latest

    @property
    def ends(self) -> Mapping[str, EndedLane]:
        """The last end of each lane that was ever ended."""
        self._read()
        return self._ends

    @property
    def erased(self) -> Sequence[ErasureNote]:
        """What was asked to be erased of the run."""
        self._read()
        return self._erased

    def _read(self) -> None:
        for text in self._unread:
            with contextlib.suppress(ValueError):  # the mark was damaged
                mark = Mark.load(text)
                if mark.kept is not None:
                    self._tokens = set(mark.kept)
                    self._latest = {lane: token for lane, token in self._latest.items() if token in self._tokens}
                for lane_id in mark.dropped:
                    self._latest.pop(lane_id, None)
                self._latest.update(mark.snapshots)
                self._tokens.update(token for _, token in mark.snapshots)
                self._ends.update((end.lane_id, end) for end in mark.ended)
                self._erased = mark.erased or self._erased
        self._unread.clear()
