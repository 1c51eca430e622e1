"""Whether the server's own files still have what was erased: they do until they were rewritten after that.

A server with an append-only file is asked to rewrite it, one with a dump to save another one; where its user may
not ask, the commands are named. Files of replicas, and copies, are out of reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from runstream.operations.operation import Command, Exchange, Operation, Refusal
from runstream.stores.redis.keys import RunKeys
from runstream.stores.redis.noted_erasures import FilesMark, NotedErasures
from runstream.stores.redis.replies import parse_info, parse_map
from runstream.stores.redis.scripts.erasure_calls import note_erasure_call

__all__ = ["FilesState", "check_files"]

_COMMANDS: Mapping[str, Command] = {"aof": (b"BGREWRITEAOF",), "rdb": (b"BGSAVE",)}
_NAMES = {"aof": "append-only file", "rdb": "dump"}


class FilesState(NamedTuple):
    """Whether the server's files lack what was erased; if not, why, and what to run so that they will."""

    done: bool
    reason: str = ""
    command: str = ""


def check_files(run: RunKeys, start: str, noted: NotedErasures) -> Operation[FilesState]:
    """Find out whether the server's files lack what was erased of a run, and ask for it once if they do not.

    Args:
        run: The run's keys.
        start: Its start, as meta has it.
        noted: Its erasures: the stream has been made anew for all of them.
    """
    mark = noted.files
    if mark.done >= noted.rebuilt:
        return FilesState(done=True)
    persistence, server, save = yield Exchange(
        [(b"INFO", b"persistence"), (b"INFO", b"server"), (b"CONFIG", b"GET", b"save")],
        permissive=True,
        near=run.meta,
    )
    if isinstance(persistence, Refusal) and persistence.is_denied:
        raise persistence.error
    facts = {} if isinstance(persistence, Refusal) else parse_info(persistence)
    left: list[str] = []
    if "aof_enabled" in facts and not isinstance(server, Refusal):  # a simulated server has no files
        mark = _mark(mark, noted.rebuilt, parse_info(server).get("run_id", ""), facts)
        kinds = _kinds(facts, None if isinstance(save, Refusal) else parse_map(save).get(b"save", b""))
        left = [kind for kind in kinds if not _is_rewritten(kind, facts, mark, noted.rebuilt_at)]
    if not left:
        mark = FilesMark(noted.rebuilt, done=noted.rebuilt)
    accepted, refused = yield from _ask(run, left, facts)
    if accepted:
        mark = mark._replace(asked=tuple(sorted({*mark.asked, *accepted})))
    yield Exchange([note_erasure_call(run, start=start, field="files", value=mark.text)], permissive=True)
    return _state(left, refused)


def _mark(mark: FilesMark, number: int, server: str, facts: Mapping[str, str]) -> FilesMark:
    """The mark to compare with: another one where the stream was made anew since, or the server started anew."""
    if mark.number < number or mark.server != server:
        mark = FilesMark(number, server, done=mark.done)
    return mark._replace(rewrites=_rewrites(facts)) if mark.rewrites == "-" else mark


def _ask(run: RunKeys, left: Sequence[str], facts: Mapping[str, str]) -> Operation[tuple[list[str], list[str]]]:
    """Ask the server of a run to write these files anew, one at a time.

    Returns:
        Which it does, and which its user may not ask for.
    """
    accepted: list[str] = []
    refused: list[str] = []
    for kind in [] if _is_at_work(facts) else left:
        (reply,) = yield Exchange([_COMMANDS[kind]], permissive=True, near=run.meta)
        if not isinstance(reply, Refusal):
            accepted.append(kind)
            break
        if reply.is_denied:
            refused.append(kind)
    return accepted, refused


def _state(left: Sequence[str], refused: Sequence[str]) -> FilesState:
    named = " and ".join(_NAMES[kind] for kind in left)
    if refused:
        commands = "; ".join(f"redis-cli {_COMMANDS[kind][0].decode()}" for kind in refused)
        return FilesState(False, f"its {named} must be rewritten, which its user may not ask for", commands)
    return FilesState(not left, f"its {named} is being rewritten: ask again in a while" if left else "")


_STATUS = {"aof": "aof_last_bgrewrite_status", "rdb": "rdb_last_bgsave_status"}
_AT_WORK = {"aof": "aof_rewrite_in_progress", "rdb": "rdb_bgsave_in_progress"}


def _kinds(facts: Mapping[str, str], save: bytes | None) -> list[str]:
    """Which files the server has. One whose configuration does not tell may have a dump."""
    has_aof = facts.get("aof_enabled") == "1"
    has_dump = save != b"" if save is not None else not has_aof or facts.get("rdb_saves", "0") != "0"
    return ["aof"] * has_aof + ["rdb"] * has_dump


def _is_at_work(facts: Mapping[str, str]) -> bool:
    return "1" in (facts.get("aof_rewrite_scheduled"), *map(facts.get, _AT_WORK.values()))


def _rewrites(facts: Mapping[str, str]) -> str:
    """What is another after the append-only file was rewritten; '-' while that is being done."""
    if _is_at_work(facts):
        return "-"
    return facts.get("aof_rewrites") or f"size{facts.get('aof_base_size', '')}"


def _is_rewritten(kind: str, facts: Mapping[str, str], mark: FilesMark, since: float) -> bool:
    """Whether a file was rewritten from a state of the server later than ``since``, Unix time in seconds."""
    if _is_at_work(facts) or facts.get(_STATUS[kind]) != "ok":
        return False
    if kind in mark.asked:
        return True
    if kind == "aof":
        return mark.rewrites not in ("-", _rewrites(facts))
    lasted = max(0, int(facts.get("rdb_last_bgsave_time_sec", "0")))
    return int(facts.get("rdb_last_save_time", "0")) - lasted - 1 > since
