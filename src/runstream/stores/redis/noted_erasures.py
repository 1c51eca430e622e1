"""What Redis notes of the erasures of a run, in a hash of its own. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from runstream.model.erasures import ErasureNote, Spans

__all__ = ["NO_ERASURES", "FilesMark", "InArchive", "NotedErasures", "joined", "parse_erasures"]

_MICROSECONDS = 1_000_000


class FilesMark(NamedTuple):
    """How far the server's files are known to lack what was erased.

    Attributes:
        number: The last request of which the stream had nothing left when this was noted.
        server: The run id of the server's process; '' where its files lack it.
        rewrites: What told then how often the append-only file had been rewritten.
        asked: What the server was asked for since: 'aof', 'rdb', or both.
        done: The last request of which they are known to have nothing left.
    """

    number: int = 0
    server: str = ""
    rewrites: str = "-"
    asked: tuple[str, ...] = ()
    done: int = 0

    @property
    def text(self) -> str:
        """The mark as it is noted."""
        return " ".join((str(self.number), str(self.done), self.server or "-", self.rewrites, *self.asked))

    @classmethod
    def parse(cls, text: str) -> FilesMark:
        """The mark that was noted so. Raises ValueError for what is none."""
        number, done, server, rewrites, *asked = text.split()
        return cls(int(number), "" if server == "-" else server, rewrites, tuple(asked), int(done))


class InArchive(NamedTuple):
    """What has become of a run's erasures in an archive.

    Attributes:
        number: The last request of which it has nothing any more.
        why: Why it has something of those after that, as a worker has found; '' where none has been there.
    """

    number: int = 0
    why: str = ""

    @property
    def text(self) -> str:
        """It as it is noted."""
        return f"{self.number} {self.why:.1000}".rstrip()


class NotedErasures(NamedTuple):
    """The erasures of a run.

    Attributes:
        notes: What was asked for, by number, in their order.
        rebuilt: The number up to which the stream has nothing of it any more.
        rebuilt_at: When it was made anew for that: Unix time in seconds, by the server's clock.
        archives: What has become of it in each archive, by UUID.
        files: How far the server's files lack it.
    """

    notes: Mapping[int, ErasureNote]
    rebuilt: int = 0
    rebuilt_at: float = 0.0
    archives: Mapping[str, InArchive] = {}
    files: FilesMark = FilesMark()

    @property
    def last(self) -> int:
        """The number of the last one; 0 for none."""
        return max(self.notes, default=0)

    @property
    def base(self) -> int:
        """The offset up to which the history was truncated; 0 where it was not."""
        return max((note.before - 1 for note in self.notes.values() if note.before is not None), default=0)

    def in_archive(self, archive_id: str) -> InArchive:
        """What has become of it in an archive."""
        return self.archives.get(archive_id, InArchive())

    def since(self, number: int) -> list[ErasureNote]:
        """What was asked for after that request."""
        return [note for at, note in self.notes.items() if at > number]

    def spans_since(self, number: int) -> Spans:
        """The offsets that were to be erased by the requests after that one."""
        return joined(span for note in self.since(number) for span in note.spans)


NO_ERASURES = NotedErasures({})


def joined(spans: Iterable[tuple[int, int]]) -> Spans:
    """Spans that may overlap, as spans that do not."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return tuple(joined)


def parse_erasures(noted: Mapping[bytes, bytes], rebuilt: bytes | None) -> NotedErasures:
    """Parse the hash of a run's erasures, and meta's field ``rebuilt``.

    Raises:
        ValueError: No script of ours has written that.
    """
    notes: dict[int, ErasureNote] = {}
    archives: dict[str, InArchive] = {}
    files = FilesMark()
    number, at = map(int, (rebuilt or b"0 0").split())
    for name, value in noted.items():
        field, _, archive_id = name.decode().partition(":")
        text = value.decode()
        if field.isdigit():
            time, _, what = text.split(" ", 2)
            notes[int(field)] = ErasureNote.parse(int(time) / _MICROSECONDS, what)
        elif field == "archive":
            done, _, why = text.partition(" ")
            archives[archive_id] = InArchive(int(done), why)
        elif field == "files":
            files = FilesMark.parse(text)
    return NotedErasures(dict(sorted(notes.items())), number, at / _MICROSECONDS, archives, files)
