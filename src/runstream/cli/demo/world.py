"""A simulation of the model and the tools that the example agent calls, with answers that look real.

Each answer follows from a random number generator that belongs to one step, so an agent that resumes in the middle
of a step gets the same answers again.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

__all__ = ["PURPOSE", "chance", "deltas", "request", "response", "tool_call", "tool_result"]

PURPOSE = "Find out which of last year's orders were late, and why"

_MODEL = "example-large-1"
_WORDS = ("order", "carrier", "route", "storm", "north", "was", "late", "because", "changed", "after", "the", "a")
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def chance(seed: int, run_id: str, lane_id: str, step: int) -> Random:
    """The random number generator of one step, seeded by it: it always gives the same."""
    return Random(f"{seed}/{run_id}/{lane_id}/{step}")  # noqa: S311  it simulates, it protects nothing


def request(step: int) -> dict[str, Any]:
    """What the model is asked."""
    return {
        "model": _MODEL,
        "temperature": 0.2,
        "messages": [
            {"role": "system", "content": PURPOSE},
            {"role": "user", "content": f"Continue with step {step}. Name the tool that you need, if any."},
        ],
    }


def deltas(chance: Random) -> list[str]:
    """The model's answer as it streams in: a few pieces of text."""
    words = chance.choices(_WORDS, k=12)
    return [" ".join(words[at : at + 4]) + " " for at in range(0, len(words), 4)]


def response(chance: Random) -> dict[str, Any]:
    """The model's complete answer, with what it used (tokens), took (seconds) and cost (dollars, exact)."""
    text = "".join(deltas(chance))
    usage = {"input_tokens": chance.randrange(400, 4000), "output_tokens": chance.randrange(20, 400)}
    return {
        "model": _MODEL,
        "text": text,
        "usage": usage,
        "latency_seconds": round(chance.uniform(0.2, 2.0), 3),
        "cost": Decimal(usage["input_tokens"] * 3 + usage["output_tokens"] * 15) / 1_000_000,
    }


def tool_call(chance: Random) -> tuple[str, dict[str, Any]]:
    """Which tool the model wants, with which arguments."""
    match chance.choice(("search", "http.fetch", "sql.query")):
        case "search":
            return "search", {"query": " ".join(chance.choices(_WORDS, k=3)), "limit": 3}
        case "http.fetch":
            return "http.fetch", {"url": f"https://example.com/orders/{chance.randrange(10_000)}"}
        case _:
            return "sql.query", {
                "sql": "SELECT id, due, delivered, amount FROM orders WHERE id > ? LIMIT 3",
                "parameters": (chance.randrange(10_000),),
            }


def tool_result(tool: str, args: dict[str, Any]) -> dict[str, Any]:
    """What the tool gives back: text, bytes, times, exact numbers, tuples."""
    match tool:
        case "search":
            hits = [{"title": args["query"].title(), "score": 0.9 - rank / 10} for rank in range(args["limit"])]
            return {"hits": hits}
        case "http.fetch":
            body = f"<h1>{args['url']}</h1>".encode() + bytes(range(256))
            headers = {"content-type": "text/html; charset=latin-1"}
            return {"status": 200, "headers": headers, "body": body, "fetched_at": datetime.now(UTC)}
        case _:
            (first,) = args["parameters"]
            return {"columns": ("id", "due", "delivered", "amount"), "rows": [_row(first + n) for n in (1, 2, 3)]}


def _row(number: int) -> tuple[UUID, date, datetime | None, Decimal]:
    due = _EPOCH + timedelta(days=number % 365)
    delivered = None if number % 7 == 0 else due + timedelta(hours=number % 100)
    return UUID(int=number), due.date(), delivered, Decimal(number % 1000) / 100
