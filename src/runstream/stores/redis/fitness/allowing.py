"""What lets a user call what it cannot."""

from __future__ import annotations

from runstream.stores.redis.fitness.facts import DENIED, UNKNOWN, Missing, ServerFacts

__all__ = ["allowing", "allowing_all"]


def allowing(facts: ServerFacts, why: str, *commands: str) -> list[str]:
    """The lines that let the user call commands that are denied to it, or unknown to the server; none for none."""
    if not commands:
        return []
    if why == DENIED:
        return [" ".join(("ACL SETUSER", facts.user, *(f"+{name.lower()}" for name in commands)))]
    names = dict.fromkeys(name.partition("|")[0] for name in commands)
    return [f"rename-command, in the server's file: leave {', '.join(names)} as it is called"]


def allowing_all(facts: ServerFacts, missing: Missing) -> list[str]:
    """The same for all that is missing."""
    return [*allowing(facts, DENIED, *missing.denied), *allowing(facts, UNKNOWN, *missing.unknown)]
