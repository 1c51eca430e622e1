"""An operation: what a store does, as a generator that yields the steps it wants made.

An operation does no I/O and never waits. It yields a step and receives the step's result, or the error that
making it raised; what it returns is its result. The two runners (:mod:`~runstream.operations.runners`) make the
steps, sync or async, so that both share all but the waiting; operations compose with ``yield from``; and every
``yield`` is a point at which a test can break an operation off.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

from runstream.model.errors import DurabilityNotReached, RunstreamError

__all__ = [
    "Call",
    "Command",
    "Exchange",
    "Items",
    "News",
    "Operation",
    "Pause",
    "Refusal",
    "Replies",
    "Resent",
    "Step",
    "Stream",
    "Wait",
    "WaitAny",
    "Waited",
    "blocking",
    "carried_resolution",
    "carried_result",
    "carry_answers",
    "carry_resolution",
    "carry_result",
    "collect",
    "in_one_call",
    "mark_unsent",
    "pass_on",
    "returning",
    "sent_again",
    "settled",
    "take_last",
    "was_unsent",
]

T = TypeVar("T")
P = ParamSpec("P")

Command: TypeAlias = tuple[Any, ...]
"""A command's name, as bytes so that redis-py leaves its reply alone, and its arguments."""

Replies: TypeAlias = list[Any]
"""The replies to the commands of an exchange, in their order."""


def take_last(replies: Replies, count: int) -> Replies:
    """Take so many replies off the end; they are given in their order."""
    at = len(replies) - count
    last = replies[at:]
    del replies[at:]
    return last


class Resent(list[Any]):
    """Replies to an exchange that was sent more than once: an earlier request may arrive after them."""


class Exchange(NamedTuple):
    """Commands to a server for one round trip; the result is the list of their replies.

    ``atomic``: they are queries, or may be repeated, and nothing of anybody else's comes between those of one
    partition. ``tolerant``: a command that the server refuses gives a :class:`Refusal` in place of a reply instead
    of an error, unless the user may not call it, or the server does not have it; ``permissive``: in that case too.
    ``smaller`` makes the exchange to send after this one has failed: one whose replies are smaller; None: the same
    again. ``is_long``: its replies may be long, so that nobody else is to wait for them. ``confirm``: commands
    that tell how durable they are, sent behind them on the same connection, and again behind those that are sent
    again; the last replies are theirs. ``near`` is a key: what has none of its own is for the server that has that
    one; None: for those that the other commands go to, or, where none has a key, for every server there is.
    ``answered`` are replies that it has got of some of its servers, by the indexes of their commands, which are
    not sent again.
    ``may_gather``: it is one append of one event, which may be sent together with others' in one call.
    """

    commands: Sequence[Command]
    atomic: bool = False
    tolerant: bool = False
    permissive: bool = False
    smaller: Callable[[], Exchange] | None = None
    is_long: bool = False
    confirm: Sequence[Command] = ()
    near: str | None = None
    answered: Mapping[int, Any] | None = None
    may_gather: bool = False


class Refusal(NamedTuple):
    """A tolerated error of the server, as a reply: the command was not applied.

    ``is_full``: for want of memory; ``is_denied``: for want of a right of the user.
    """

    error: RunstreamError
    is_full: bool = False
    is_denied: bool = False


class Call(NamedTuple):
    """A blocking call to make: directly, or, under asyncio, in a thread. Its result is what the call returns."""

    make: Callable[[], Any]


class Pause(NamedTuple):
    """Seconds to wait before going on. The result is None."""

    seconds: float


class News(NamedTuple):
    """What a wait has brought.

    Attributes:
        look: The reply to the wait's ``look``, sent after the entries had come.
        entries: Entries of the stream, as the protocol brought them: the first of those after the offset that the
            wait names, or after a lower one.
    """

    look: Any
    entries: Sequence[Any]


class Wait(NamedTuple):
    """Wait until there may be something new in a stream. The result is None, or what came: News.

    It ends when an entry comes after the offset ``after``, when ``look`` has a reply that differs, or when the
    seconds have passed (None: never). It may also end without any of that: whoever waits looks, and waits again.

    Attributes:
        stream: The stream's key.
        after: The offset of the last entry that is known.
        look: A command on a key of the same partition, sent now and then: not all that is new comes in the stream.
        differs: Whether a reply to ``look`` is another than what is known.
        seconds: For how long to wait at most.
        most: How many of the entries that come may be brought; 0: whoever waits has no use for them.
    """

    stream: str
    after: int
    look: Command
    differs: Callable[[Any], bool]
    seconds: float | None
    most: int = 0


class WaitAny(NamedTuple):
    """Wait until one of several waits ends, or the seconds have passed (None: never).

    The result has, by their indexes, what those that have ended have brought (News or None): some, or none. Their
    own seconds do not count.
    """

    waits: Sequence[Wait]
    seconds: float | None


Waited: TypeAlias = News | Mapping[int, News | None] | None
"""What comes of waiting: for one thing, or for several."""


class Items(NamedTuple):
    """Results to give to the reader that iterates over the operation, now. The step's own result is None."""

    items: Sequence[Any]


Step: TypeAlias = Exchange | Call | Pause | Wait | WaitAny | Items

Operation: TypeAlias = Generator[Step, Any, T]
"""Yields steps, receives their results, returns a T."""

Stream: TypeAlias = Operation[None]
"""An operation whose results come as :class:`Items`, one page at a time."""


_RESOLUTION = "_runstream_resolution"
_RESULT = "_runstream_result"
_UNSENT = "_runstream_unsent"
_ANSWERED = "_runstream_answered"


def mark_unsent(error: BaseException) -> None:
    """Mark the error of an exchange of which nothing was sent, nor will be: its outcome is known."""
    error.__dict__[_UNSENT] = True


def was_unsent(error: BaseException) -> bool:
    """Whether nothing was sent of the exchange that raised this error."""
    return _UNSENT in error.__dict__


def carry_answers(error: BaseException, answered: Mapping[int, Any]) -> None:
    """Let the error of an exchange with several servers carry the replies of some of them, by index."""
    error.__dict__[_ANSWERED] = answered


def sent_again(exchange: Exchange, error: BaseException) -> Exchange:
    """What is sent after an exchange has failed with this error."""
    if exchange.smaller:
        return exchange.smaller()
    answered: Mapping[int, Any] | None = error.__dict__.get(_ANSWERED)
    return exchange if answered is None else exchange._replace(answered=answered)


def blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Operation[T]:
    """The operation that makes one blocking call and returns what that returns."""
    result: T = yield Call(partial(function, *args, **kwargs))
    return result


def returning(result: T) -> Operation[T]:
    """The operation that has this result already."""
    yield from ()
    return result


def in_one_call(function: Callable[P, T]) -> Callable[P, Operation[T]]:
    """Make a blocking function or method an operation: one call, and what it returns is the result."""

    @wraps(function)
    def operation(*args: P.args, **kwargs: P.kwargs) -> Operation[T]:
        return blocking(function, *args, **kwargs)

    return operation


def carry_resolution(error: BaseException, resolve: Callable[[], Operation[Any]]) -> None:
    """Let the error of a write carry the operation that resolves it: sends it again, and returns its first result.

    Any error may leave a write without an outcome, a cancellation as much as a lost reply.
    """
    error.__dict__[_RESOLUTION] = resolve


def carried_resolution(error: BaseException) -> Callable[[], Operation[Any]] | None:
    """The operation that resolves the write which this error left without an outcome, or None."""
    resolve: Callable[[], Operation[Any]] | None = error.__dict__.get(_RESOLUTION)
    return resolve


def carry_result(error: BaseException, result: Any) -> None:
    """Let the error of a write that was applied carry what the write returned."""
    error.__dict__[_RESULT] = result


def carried_result(error: BaseException) -> Any:
    """What the write returned that was applied, and raised this error after that."""
    return error.__dict__[_RESULT]


def settled(operation: Operation[T]) -> Operation[tuple[T, DurabilityNotReached | None]]:
    """Write. What is applied, and not as durable as was asked for, is done, and to be told when all is.

    Returns:
        What the operation returned, and the error that tells of it, which whoever calls this is to raise.
    """
    try:
        return (yield from operation), None
    except DurabilityNotReached as error:
        return carried_result(error), error


def pass_on(
    stream: Stream,
    choose: Callable[[Sequence[Any]], Sequence[Any]],
    came_back: Callable[[], None] | None = None,
) -> Stream:
    """The same stream with other items: each page is what ``choose`` makes of it; an empty one is not handed on.

    What is thrown in at a step goes to the inner stream, which is closed when this ends. ``came_back`` is called
    when the reader has taken all of a page and asks for more.
    """
    try:
        step = next(stream)
        while True:
            try:
                result = None
                if not isinstance(step, Items):
                    result = yield step
                elif chosen := choose(step.items):
                    yield Items(chosen)
                    if came_back is not None:
                        came_back()
            except BaseException as error:  # noqa: BLE001 - the inner stream decides what to do about it
                step = stream.throw(error)
            else:
                step = stream.send(result)
    except StopIteration:
        return
    finally:
        stream.close()


def collect(stream: Stream) -> Operation[list[Any]]:
    """All the items of a stream as one result."""
    collected: list[Any] = []

    def keep(items: Sequence[Any]) -> Sequence[Any]:
        collected.extend(items)
        return ()

    yield from pass_on(stream, keep)
    return collected
