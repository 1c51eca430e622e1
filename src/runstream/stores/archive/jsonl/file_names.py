"""File names for runs, lanes and tokens, whatever characters these have. Pure: touches no file.

Text of lower-case letters, digits, ``_``, ``-`` and inner dots is its own name. In any other, each byte
that is not one of these becomes ``%`` and two hexadecimal digits, so that names differ on file systems
that ignore case too. What is then too long becomes ``%-`` and a SHA-256, and its text must be kept
elsewhere: in a run's first line, in a lane's snapshot. Different texts never get the same name.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote_to_bytes

__all__ = [
    "ABOUT",
    "DELETED",
    "ERASING",
    "EVENTS",
    "LOCKS",
    "REWRITTEN",
    "SNAPSHOTS",
    "SNAPSHOTS_REWRITTEN",
    "TRASH",
    "encoded",
    "is_hashed",
    "is_leftover",
    "is_run_file",
    "is_safe",
    "is_unfinished",
    "named",
    "path_in",
    "prepared_name",
    "prepared_suffix",
    "raw_parts",
    "snapshot_name",
]

ABOUT = ".runstream.json"
"""The file that makes a directory an archive: its UUID and format."""
LOCKS = ".locks"
DELETED = ".deleted.jsonl"
TRASH = ".deleted-"
"""How the name of a directory begins that was a run's, until its files are removed."""
ERASING = ".erasing-"
"""How the name of a file begins that says of which run something is being erased."""
_OF_THE_ARCHIVE = (ABOUT, LOCKS, DELETED, TRASH, ERASING)
EVENTS = "events.jsonl"
REWRITTEN = "events.jsonl.rewritten"
SNAPSHOTS = "snapshots.jsonl"
SNAPSHOTS_REWRITTEN = "snapshots.jsonl.rewritten"
MAX_RUN_NAME_BYTES = 200
_MAX_LANE_NAME_BYTES = 120  # with a prepared snapshot's suffix it stays below the 255 of most file systems
_MAX_FILE_NAME_BYTES = 255

_KEPT = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-.")
# names of devices in Windows, with any extension
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")
_HASHED = "%-"
_RUN_FILE = re.compile(
    r"events\.jsonl(\.torn-\d+|\.rewritten)?|snapshots\.jsonl(\.rewritten)?"
    r"|snapshot(-[a-z0-9_.%-]*|\.backup)?\.json(\.prepared-[a-z0-9_.%-]+)?"
)


_LEFTOVER = re.compile(r"events\.jsonl\.torn-\d+|snapshot\.backup\.json")


@lru_cache(maxsize=1024)  # a store asks for the names of a few runs, again and again
def encoded(text: str, max_bytes: int = MAX_RUN_NAME_BYTES) -> str:
    """The file name for this text, at most ``max_bytes`` long (or 66, whichever is more)."""
    data = text.encode()
    end = len(data) - 1
    first_is_bad = text.startswith(".") or _DEVICE.fullmatch(text) is not None
    name = "".join(
        f"%{byte:02x}"
        if byte not in _KEPT or (index == 0 and first_is_bad) or (index == end and byte == ord("."))
        else chr(byte)
        for index, byte in enumerate(data)
    )
    return name if len(name) <= max_bytes else _HASHED + hashlib.sha256(data).hexdigest()


def is_hashed(name: str) -> bool:
    """Whether the name is that of a text too long to be a name: the text is kept elsewhere."""
    return re.fullmatch(r"%-[0-9a-f]{64}", name) is not None


def named(name: str) -> str | None:
    """The run id whose directory has this name; None where the name does not say.

    A name that no id is encoded to is the id itself: another program's directory.
    """
    if name.startswith(_OF_THE_ARCHIVE) or is_hashed(name):
        return None
    try:
        text = unquote_to_bytes(name).decode()
    except UnicodeError:  # not UTF-8 once decoded: nothing of ours; or not UTF-8 as it stands: no run id
        return name if _is_utf8(name) else None
    return text if text and encoded(text) == name else name


def is_safe(run_id: str) -> bool:
    """Whether a run's id may name its directory as it stands, on a file system that distinguishes case."""
    return (
        run_id.isascii()
        and run_id.isprintable()
        and len(run_id) <= MAX_RUN_NAME_BYTES
        and not run_id.startswith(".")
        and not run_id.endswith((".", " "))
        and not {"/", "\\", "%"} & {*run_id}
        and _DEVICE.fullmatch(run_id.lower()) is None
    )


def raw_parts(run_id: str) -> list[str]:
    """The directories, one in the other, that another program makes for a run as its id stands.

    None where it makes none, or one that is another run's, or not in the archive's directory.
    """
    parts = run_id.split("/")
    is_anothers = len(parts) == 1 and named(run_id) != run_id
    if is_anothers or parts[0].startswith(_OF_THE_ARCHIVE) or not all(map(_is_file_name, parts)):
        return []
    return parts


@lru_cache(maxsize=1024)  # to join them takes as long as to ask the system about the file
def path_in(directory: Path, name: str) -> Path:
    """The path of a file or directory of that name."""
    return directory / name


def snapshot_name(lane_id: str | None) -> str:
    """The file of the run's snapshot (None), or of a lane's."""
    return "snapshot.json" if lane_id is None else f"snapshot-{encoded(lane_id, _MAX_LANE_NAME_BYTES)}.json"


def prepared_suffix(token: str) -> str:
    """The suffix of a snapshot's file name until the batch that it belongs to is committed."""
    return f".prepared-{encoded(token, 66)}"


def prepared_name(lane_id: str | None, token: str) -> str:
    """The file of a snapshot that is written but not yet renamed to its own name."""
    return snapshot_name(lane_id) + prepared_suffix(token)


def is_run_file(name: str) -> bool:
    """Whether a file of this name in a run's directory belongs to the run."""
    return _RUN_FILE.fullmatch(name) is not None


def is_unfinished(name: str) -> bool:
    """Whether a file of this name in a run's directory was to replace another one, and has not yet."""
    return name in (REWRITTEN, SNAPSHOTS_REWRITTEN) or (".prepared-" in name and is_run_file(name))


def is_leftover(name: str) -> bool:
    """Whether a file of this name in a run's directory has what does not count: set aside, or of another time."""
    return _LEFTOVER.fullmatch(name) is not None


def _is_file_name(part: str) -> bool:
    is_name = part not in ("", ".", "..") and "\0" not in part and _is_utf8(part)
    return is_name and len(part.encode()) <= _MAX_FILE_NAME_BYTES


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
