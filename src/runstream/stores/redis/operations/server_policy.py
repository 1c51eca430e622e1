"""Whether the server may evict keys that are needed: asked at connect, now and then, and after it was full.

A volatile policy evicts keys with a TTL alone, and no key of a run has one; allkeys policies evict any.
"""

from __future__ import annotations

from collections.abc import Mapping

from runstream.model.errors import ConfigurationError
from runstream.operations.operation import Exchange, Operation, Refusal
from runstream.stores.redis.replies import parse_info

__all__ = ["MEMORY_QUERY", "check_policy", "check_policy_reply", "check_policy_still"]

MEMORY_QUERY = (b"INFO", b"memory")


def check_policy(info: Mapping[str, str]) -> None:
    """Raise ConfigurationError if the server may evict any key, by what INFO says."""
    policy = info.get("maxmemory_policy", "")
    if policy.startswith("allkeys-"):
        raise ConfigurationError(
            f"the server has maxmemory-policy {policy}: it would drop acknowledged events without a word;"
            " set it to noeviction, or to a volatile policy"
        )


def check_policy_reply(reply: bytes | str | Refusal) -> None:
    """As ``check_policy``, by the reply to MEMORY_QUERY, which fakeredis refuses. Raises what denies it."""
    if not isinstance(reply, Refusal):
        check_policy(parse_info(reply))
    elif reply.is_denied:
        raise reply.error


def check_policy_still() -> Operation[None]:
    """Ask the server again. Raises ConfigurationError if it may evict any key by now."""
    (reply,) = yield Exchange([MEMORY_QUERY], permissive=True)
    check_policy_reply(reply)
