"""Operations side by side get what each would get alone, and what they ask for at one time is one step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from runstream.model.errors import StoreUnavailable
from runstream.operations.operation import Call, Exchange, Operation, Pause, Step, blocking
from runstream.operations.together import together


def run(operation: Operation[Any], make: Callable[[Step], Any]) -> tuple[Any, list[Step]]:
    """What an operation returns, and the steps that it has made."""
    steps: list[Step] = []
    how: Callable[[], Step] = partial(next, operation)
    while True:
        try:
            steps.append(how())
        except StopIteration as stop:
            return stop.value, steps
        try:
            how = partial(operation.send, make(steps[-1]))
        except Exception as error:  # noqa: BLE001 - as a runner does
            how = partial(operation.throw, error)


def answer(step: Step) -> Any:
    """The replies to an exchange are its commands, in words."""
    if isinstance(step, Exchange):
        return [" ".join(map(str, command)) for command in step.commands]
    return step.make() if isinstance(step, Call) else None


def asking(*names: str, first: Callable[[], Any] | None = None) -> Operation[list[str]]:
    if first is not None:
        yield from blocking(first)
    replies: list[str] = yield Exchange([("GET", name) for name in names], atomic=True)
    return replies


def test_each_gets_its_own_replies_and_the_same_query_is_sent_once() -> None:
    found, steps = run(together(asking("a", "b"), asking("b", "c", first=int), asking("b")), answer)
    assert found == [["GET a", "GET b"], ["GET b", "GET c"], ["GET b"]]
    called, asked = steps
    assert isinstance(called, Call)
    assert isinstance(asked, Exchange)
    assert (asked.commands, asked.atomic) == ([("GET", "a"), ("GET", "b"), ("GET", "c")], True)


def test_calls_of_one_time_are_one_and_an_error_is_raised_to_who_made_it() -> None:
    def failing() -> Operation[str]:
        try:
            yield from asking("a", first=partial(int, "x"))
        except ValueError:
            return "none"
        return "some"

    found, steps = run(together(failing(), asking("b", first=int)), answer)
    assert found == ["none", ["GET b"]]
    assert [type(step) for step in steps] == [Call, Exchange]


def test_an_exchange_that_fails_is_an_error_of_all_that_asked() -> None:
    closed: list[str] = []

    def noting(name: str, *, goes_on: bool) -> Operation[str]:
        try:
            yield from asking(name)
        except StoreUnavailable:
            if not goes_on:
                raise
            return name
        finally:
            closed.append(name)
        return ""

    def fail(step: Step) -> Any:
        raise StoreUnavailable(str(step))

    assert run(together(noting("a", goes_on=True), noting("b", goes_on=True)), fail)[0] == ["a", "b"]
    with pytest.raises(StoreUnavailable):
        run(together(noting("c", goes_on=False), noting("d", goes_on=True)), fail)
    assert closed == ["a", "b", "c", "d"]


def test_what_is_no_query_is_sent_alone() -> None:
    def writing() -> Operation[None]:
        yield Pause(0.0)
        yield Exchange([("SET", "a")])

    found, steps = run(together(writing(), writing()), answer)
    assert found == [None, None]
    assert [type(step) for step in steps] == [Pause, Pause, Exchange, Exchange]


def test_each_asks_for_less_after_a_failure_and_gets_the_replies_to_that() -> None:
    def paging(name: str) -> Operation[list[str]]:
        count = 4

        def exchange() -> Exchange:
            return Exchange([("GET", name, number) for number in range(count)], atomic=True, smaller=smaller)

        def smaller() -> Exchange:
            nonlocal count
            count //= 2
            return exchange()

        replies: list[str] = yield exchange()
        return replies

    def retry(step: Step) -> Any:
        assert isinstance(step, Exchange)
        assert step.smaller is not None
        return answer(step.smaller())

    found, _ = run(together(paging("a"), paging("b"), asking("c")), retry)
    assert found == [["GET a 0", "GET a 1"], ["GET b 0", "GET b 1"], ["GET c"]]


def test_the_same_call_is_made_once_and_what_it_raises_is_raised_to_each() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return 1 // number

    def calling(number: int) -> Operation[int]:
        try:
            return (yield from blocking(make, number))
        except ZeroDivisionError:
            return -1

    found, steps = run(together(*map(calling, (1, 0, 1, 0, 0))), answer)
    assert (found, made) == ([1, -1, 1, -1, -1], [1, 0])
    assert len(steps) == 1
