"""What passes between a process and the server, as a story tells it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from runstream.operations.operation import Command, Exchange, Refusal, Replies
from runstream.stores.redis.scripts.script import script_of

__all__ = ["answered", "batch_of", "run_of", "told"]

_MOST = 4
_MARK = re.compile(rb"@[a-z.0-9]+/[a-z0-9]+@")
_APPLIED = re.compile(rb"(?:\d+ \d+-\d+ )?(\d+)-\d+ \d+")
_WORD = re.compile(rb"[a-z]+")
_AS_EVER = (b"ok",)


def told(exchange: Exchange) -> str:
    """An exchange: its commands, the runs that scripts are called for, and the marks of the events in them."""
    names = [_name(command) for command in exchange.commands]
    return f"sends {', '.join(names[:_MOST])}{' and more' if len(names) > _MOST else ''}"


def answered(replies: Replies) -> str:
    """What a story tells of replies: where an append has ended, and what was refused, and why; '' if nothing."""
    found = list(_answers(replies))
    return f"is told {', '.join(found[:_MOST])}" if found else ""


def run_of(command: Command, *scripts: str) -> str | None:
    """The run for which a command calls one of these scripts; None if it calls none of them."""
    script = script_of(command)
    if script is None or script.name not in scripts:
        return None
    run_id = command[3 + int(str(command[2]))]
    return run_id.decode() if isinstance(run_id, bytes) else str(run_id)


def batch_of(command: Command) -> tuple[str, str] | None:
    """The producer and the number of the batch that a command appends; None if it appends none."""
    script = script_of(command)
    if script is None or script.name != "append":
        return None
    of_script = 3 + int(str(command[2]))
    producer, number = (
        arg.decode() if isinstance(arg, bytes) else str(arg) for arg in command[of_script + 2 : of_script + 4]
    )
    return producer, number


def _name(command: tuple[object, ...]) -> str:
    name = command[0].decode() if isinstance(command[0], bytes) else str(command[0])
    if name != "EVALSHA":
        return name
    script = script_of(command)
    if script is None:
        return "a script"
    keys = int(str(command[2]))
    args = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in command[3 + keys :]]
    marks = [mark.decode() for arg in args for mark in _MARK.findall(arg)]
    many = f" and {len(marks) - _MOST} more" if len(marks) > _MOST else ""
    events = f" {' '.join(marks[:_MOST])}{many}" if marks else ""
    # the first argument is the run, where there is one; that of a lease is what is done
    run = next((arg.decode() for arg in args if arg.startswith(b"run-")), "")
    action = f" {args[0].decode()}" if script.name == "lease" else ""
    return f"{script.name}{action}{events}{f' to {run}' if events else f' {run}' if run else ''}"


def _answers(replies: Replies) -> Iterator[str]:
    for reply in replies:
        if isinstance(reply, Refusal):
            yield f"an error: {reply.error}"
        elif isinstance(reply, bytes) and (applied := _APPLIED.match(reply)):
            yield f"that it is at {applied[1].decode()}"
        elif isinstance(reply, list) and _is_refusal(reply):
            # of an archive its name: where it lies is another place in each game
            yield " ".join(word.rpartition(b"/")[2].decode(errors="replace") for word in reply)


def _is_refusal(reply: Sequence[object]) -> bool:
    words = [word for word in reply if isinstance(word, bytes)]
    return (
        bool(words) and len(words) == len(reply) and words[0] not in _AS_EVER and bool(_WORD.fullmatch(words[0]))
    )
