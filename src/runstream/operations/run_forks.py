"""What every store does alike about forks: what may be asked for, and the head that a fork begins with. Pure.

A fork is a run that shares its parent's history up to an offset by pointer (:mod:`runstream.operations.lineage`).
To make one costs the same whatever the parent's length: it has a head, and copies of snapshots.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from runstream.codec.chain import CHAIN_MODULUS
from runstream.model.archive_records import ArchiveSnapshot
from runstream.model.errors import ConfigurationError, RunHasForks
from runstream.model.identifiers import check_run_id, random_token
from runstream.model.questions import Question
from runstream.model.results import Cursor, Fork
from runstream.model.run_head import EndedLane, RunHead
from runstream.model.state import RunStatus
from runstream.model.tags import NO_TAGS, check_tags
from runstream.operations.arguments import check_count
from runstream.operations.operation import Operation

__all__ = [
    "Brought",
    "BroughtTooLittle",
    "ForkOptions",
    "as_state_of",
    "by_offset",
    "check_fork",
    "fork_head",
    "forks_among",
    "has_forks",
    "without_forks",
]

_MOST_NAMED = 10
_TRIES = (
    3  # at detaching one: it may be made just now, or a worker write to an archive what it loaded of it before
)

T = TypeVar("T")


class ForkOptions(NamedTuple):
    """What a fork is asked for with; see :meth:`runstream.stores.facade.Store.fork`."""

    at: int | None = None
    tags: Mapping[str, str] | None = None

    def check(self, run_id: str, new_run_id: str) -> None:
        """Raise InvalidRunId, EncodingError or ConfigurationError, naming the argument that does not fit."""
        check_run_id(run_id)
        check_run_id(new_run_id)
        if run_id == new_run_id:
            raise ConfigurationError(f"run {run_id!r:.80} cannot be a fork of itself: name another new_run_id")
        check_count("at", self.at)
        check_tags(self.tags, removing=False)


class Brought(NamedTuple):
    """What an archive knows of a run that is to be forked, and Redis may not.

    Attributes:
        head: Its head, with its latest snapshots, as Redis had it before the archive was asked.
        at: Its cursor at the offset at which it is to be forked, or the last one before that which the archive
            has.
        snapshots: The newest ones, of the run and of each lane, that cover no more than that.
        ends: The last end of each lane, as far as that is no later.
    """

    head: RunHead
    at: Cursor
    snapshots: Sequence[ArchiveSnapshot]
    ends: Sequence[EndedLane] = ()


class BroughtTooLittle(Exception):
    """Something has left Redis since an archive was asked what it has of a run: nothing was forked."""


def check_fork(run_id: str, head: RunHead | None, new_run_id: str, former: RunHead | None, at: int | None) -> int:
    """The offset at which to fork a run; or the one at which the same fork was made already.

    Args:
        run_id: The run.
        head: Its head; None if it is not there.
        new_run_id: The run that is to be its fork.
        former: That one's head, if it is there.
        at: The offset that is asked for; None: the run's last.

    Raises:
        ConfigurationError: There is no such run or no such offset, or ``new_run_id`` is another run.
    """
    if head is None:
        raise ConfigurationError(f"there is no run {run_id!r} here to fork: see its id (list_runs)")
    if former is not None:
        parent = former.fork_of
        is_same = parent is not None and parent[0] == run_id and former.parent_identity == head.creation
        if parent is None or not is_same or at not in (None, parent[1]):
            raise ConfigurationError(
                f"there is a run {new_run_id!r} already, and it is not this fork: name another new_run_id, or"
                " delete that run first"
            )
        return parent[1]
    at = head.last.offset if at is None else at
    if not head.begin <= at <= head.last.offset:
        raise not_there(run_id, head, at, head.begin)
    return at


def not_there(run_id: str, head: RunHead, at: int, first: int) -> ConfigurationError:
    """The error for an offset at which a run cannot be forked: its history begins after ``first``."""
    return ConfigurationError(
        f"run {run_id!r} cannot be forked at offset {at}: it has {first} to {head.last.offset}"
    )


def fork_head(run_id: str, head: RunHead, at: Cursor, options: ForkOptions, now: float) -> RunHead:
    """The head of a new fork, without its snapshots.

    Args:
        run_id: The parent.
        head: Its head, with its tags.
        at: Its cursor where it is forked.
        options: What is asked for.
        now: The time: Unix time in seconds.
    """
    tags = head.tags
    if options.tags is not None:
        tags = NO_TAGS.changed(options.tags, random_token()[:8])
    return RunHead(
        at,
        at,
        # of an earlier offset nobody knows it: it is open
        status=head.status if at.offset == head.last.offset else RunStatus.RUNNING.value,
        session_id=head.session_id,
        created_at=now,
        updated_at=now,
        parent=(run_id, at.offset),
        questions=_questions_at(head.questions, at.offset),
        tags=tags,
        identity=1 + secrets.randbelow(CHAIN_MODULUS - 1),
        parent_identity=head.creation,
    )


def as_state_of(run_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a state that was another run's; those of one that names no run are as they were.

    Args:
        run_id: The run whose state it is to be.
        fields: The state's fields.
    """
    return {**fields, "run_id": run_id} if "run_id" in fields else dict(fields)


def _questions_at(questions: Sequence[Question], at: int) -> tuple[Question, ...]:
    """The questions as they stood at an offset; one that was answered later waits again."""
    asked = [question for question in questions if question.offset <= at]
    return tuple(
        replace(question, answer_offset=None)
        if question.answer_offset is not None and question.answer_offset > at
        else question
        for question in asked
    )


def forks_among(run_id: str, creation: int | None, heads: Iterable[tuple[str, RunHead]]) -> list[Fork]:
    """Those of some runs that were forked from a run, in the order of their ids.

    Args:
        run_id: The run.
        creation: Names the creation of it that is meant: of another one they are no forks; None: it is not there.
        heads: The ids and the heads of the others.
    """
    return sorted(
        Fork(each, head.start.offset)
        for each, head in heads
        if head.is_fork_of(run_id) and head.parent_identity == creation
    )


def by_offset(forks: Iterable[Fork]) -> list[Fork]:
    """Forks, each once, by the offset at which they were forked, and of one offset by id."""
    return sorted(set(forks), key=lambda fork: (fork.at, fork.run_id))


def without_forks(
    attempt: Callable[[], Operation[T]], detach: Callable[[str, str], Operation[Any]] | None
) -> Operation[T]:
    """Do what forks of a run stand in the way of, once each of them was detached from it.

    Args:
        attempt: Does it, or raises RunHasForks: then nothing was changed.
        detach: Gives a fork, of a run, a copy of its own of all that it shares, so that it is a fork no more;
            None: they are not to be detached.

    Raises:
        RunHasForks: They stay in the way, or one is only about to be made.
    """
    tries = Counter[str]()
    while True:
        try:
            return (yield from attempt())
        except RunHasForks as error:
            run_id, forks = error.run_id, [fork for fork in error.forks if tries[fork] < _TRIES]
            if detach is None or not forks:
                raise
        for fork in forks:
            yield from detach(fork, run_id)
        tries.update(forks)


def has_forks(run_id: str, forks: Iterable[Fork], what: str = "deleted") -> RunHasForks:
    """The error for a run whose history others need.

    Args:
        run_id: The run.
        forks: Those that were forked from it, in any order; one may come twice.
        what: What was not done to it, in words.
    """
    forks = by_offset(forks)
    named = ", ".join(f"{fork.run_id!r} at {fork.at}" for fork in forks[:_MOST_NAMED])
    more = f" and {len(forks) - _MOST_NAMED} more" if len(forks) > _MOST_NAMED else ""
    return RunHasForks(
        f"run {run_id!r} was not {what}: runs that were forked from it need its history ({named}{more}); delete"
        " them first, or pass detach=True: then each gets a copy of its own",
        run_id=run_id,
        forks=[fork.run_id for fork in forks],
    )
