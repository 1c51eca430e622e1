"""What an event says of tokens and cost, by the names that programs give these.

The names are those of purpose-agent (``TokenUsage`` of its ``observability``), of the semantic conventions of
OpenTelemetry for generative AI, of these before they were renamed, and of the large providers' clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from runstream.operations.filters import field_of, payload_of, text_of

__all__ = ["NOTHING_USED", "Usage", "number_in", "usage_of"]

_INPUT = ("input_tokens", "prompt_tokens", "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUT = (
    "output_tokens", "completion_tokens", "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens",
)  # fmt: skip
_TOTAL = ("total_tokens", "gen_ai.usage.total_tokens")
_COST = ("cost", "cost_usd", "total_cost", "total_cost_usd", "estimated_cost_usd", "gen_ai.usage.cost")
_WITHIN = ("usage", "token_usage", "usage_metadata")

_KNOWN = frozenset((*_INPUT, *_OUTPUT, *_TOTAL, *_COST, *_WITHIN))

_SUMS = ("run.", "agent.", "state.", "checkpoint.", "memory.", "skill.")
"""What begins with these tells sums of what came before, or a state that holds some: it is not counted again."""

_MOST = 2**53  # beyond that it is no count of anything


class Usage(NamedTuple):
    """What was used.

    Attributes:
        input_tokens: The tokens that a model read.
        output_tokens: The tokens that it wrote; where only a sum is known, that.
        cost: What it cost, in US dollars.
    """

    input_tokens: int
    output_tokens: int
    cost: float


NOTHING_USED = Usage(0, 0, 0.0)


def usage_of(event: Any) -> Usage:
    """What an event says was used for it alone.

    Args:
        event: An event of whatever type.
    """
    kind, payload = str(text_of(field_of(event, "kind"))), payload_of(event)
    if not isinstance(payload, Mapping) or _KNOWN.isdisjoint(payload) or kind.startswith(_SUMS):
        return NOTHING_USED
    within = list(_within(payload))
    read, written, total = (int(_first(within, names)) for names in (_INPUT, _OUTPUT, _TOTAL))
    used = Usage(read, written or max(0, total - read), float(_first(within, _COST)))
    return used if any(used) else NOTHING_USED


def number_in(value: Any) -> float | int:
    """A number that can be a count or a cost; 0 for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return 0
    if isinstance(value, Decimal):
        value = float(value) if value.is_finite() else 0
    return value if 0 <= value <= _MOST else 0  # nan is not


def _within(payload: Mapping[Any, Any]) -> Iterator[Mapping[Any, Any]]:
    yield payload
    for name in _WITHIN:
        if isinstance(found := payload.get(name), Mapping):
            yield found


def _first(within: list[Mapping[Any, Any]], names: tuple[str, ...]) -> float | int:
    return next((found for one in within for name in names if (found := number_in(one.get(name)))), 0)
