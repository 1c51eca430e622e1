"""Operations side by side that only read: what they ask for at one time is one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from runstream.operations.operation import Call, Command, Exchange, Operation, Replies, Step

__all__ = ["together"]


def together(*operations: Operation[Any]) -> Operation[list[Any]]:
    """The results of several operations that read one run, in their order.

    Blocking calls that they wait for at one time are one; so are queries; and the same one is made once. What it
    raises is raised to each that asked. An error that an operation lets pass ends all.
    """
    results: list[Any] = [None] * len(operations)
    waiting: dict[int, Step] = {}

    def go_on(index: int, how: Callable[[], Step]) -> None:
        waiting.pop(index, None)
        try:
            waiting[index] = how()
        except StopIteration as stop:
            results[index] = stop.value

    try:
        for index, operation in enumerate(operations):
            go_on(index, partial(next, operation))
        while waiting:
            for index, how in (yield from _step(operations, waiting)):
                go_on(index, how)
    finally:
        for operation in operations:
            operation.close()
    return results


def _step(
    operations: Sequence[Operation[Any]], waiting: dict[int, Step]
) -> Operation[list[tuple[int, Callable[[], Step]]]]:
    """Make a step of those that wait, for as many as can share it; and how each of them goes on."""
    # calls first: who has made them may ask for the same as the others then
    calls = {index: step for index, step in waiting.items() if type(step) is Call}
    if calls:
        outcomes = yield Call(partial(_made, list(calls.values())))
        pairs = zip(calls, outcomes, strict=True)
        return [(index, _after(operations[index], *outcome)) for index, outcome in pairs]
    asked = {index: step for index, step in waiting.items() if isinstance(step, Exchange) and _is_query(step)}
    step: Step
    apart: Callable[[Any], list[Any]]
    if len(asked) > 1:
        shared = _SharedExchange(list(asked.values()))
        step, apart, among = shared.exchange(), shared.apart, list(asked)
    else:
        (first, step), apart = next(iter(waiting.items())), _alone  # whatever it is, it is made alone
        among = [first]
    try:
        results = apart((yield step))
    except Exception as error:  # noqa: BLE001 - each decides what to do about it
        return [(index, _after(operations[index], None, error)) for index in among]
    return [(index, _after(operations[index], result)) for index, result in zip(among, results, strict=True)]


def _alone(result: Any) -> list[Any]:
    return [result]


def _after(operation: Operation[Any], result: Any, error: Exception | None = None) -> Callable[[], Step]:
    """How an operation goes on after a step with that result, or with the error that it raised."""
    return partial(operation.send, result) if error is None else partial(operation.throw, error)


def _made(calls: Sequence[Call]) -> list[tuple[Any, Exception | None]]:
    """What each call returns, or raises."""
    outcomes: list[tuple[Any, Exception | None]] = []
    asked = list(map(_question, calls))
    for index, call in enumerate(calls):
        if (first := asked.index(asked[index])) < index:
            outcomes.append(outcomes[first])
            continue
        try:
            outcomes.append((call.make(), None))
        except Exception as error:  # noqa: BLE001 - raised to whoever asked
            outcomes.append((None, error))
    return outcomes


def _question(call: Call) -> Any:
    """What is equal for calls that ask for the same."""
    make = call.make
    return (make.func, make.args, make.keywords) if isinstance(make, partial) else make


def _is_query(exchange: Exchange) -> bool:
    return exchange.atomic and not exchange.tolerant and not exchange.permissive


class _SharedExchange:
    """The queries of several operations as one exchange.

    Args:
        steps: Their exchanges.
    """

    def __init__(self, steps: Sequence[Exchange]) -> None:
        self._steps = steps
        self._places: dict[Command, int] = {}

    def exchange(self) -> Exchange:
        """What to send: each query once."""
        commands = dict.fromkeys(command for step in self._steps for command in step.commands)
        self._places = {command: place for place, command in enumerate(commands)}
        return Exchange(list(commands), atomic=True, smaller=self._smaller)

    def _smaller(self) -> Exchange:
        self._steps = [step.smaller() if step.smaller else step for step in self._steps]
        return self.exchange()

    def apart(self, replies: Replies) -> list[Replies]:
        """The replies to the queries of each."""
        return [[replies[self._places[command]] for command in step.commands] for step in self._steps]
