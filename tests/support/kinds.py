"""The kinds of store that the suite runs on, by the names under which ``make_backend`` makes them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.support.exhaustive import ROUNDS, TURNS
from tests.support.servers import PROGRAMS

REAL = [name for name in ("valkey", "redis62", "redis70") if name in PROGRAMS]
CLUSTER = ["cluster"] if REAL else []
REDIS = ["fake", *REAL, *(["valkey-resp2"] if "valkey" in PROGRAMS else []), *CLUSTER]
ASYNC = ["async-fake", *(f"async-{name}" for name in (*REAL, *CLUSTER)), "threaded-memory", "threaded-sqlite"]
BACKENDS = ["memory", "jsonl", "sqlite", *REDIS, *ASYNC]
SHARED = [name for name in BACKENDS if "memory" not in name]  # memory belongs to one object
LIVE = [name for name in BACKENDS if "sqlite" not in name and "jsonl" not in name]  # people can be asked there

_SERVER = next(iter(REAL), "fake")
_BY_DEFAULT = {"memory", "jsonl", "sqlite", _SERVER, f"async-{_SERVER}"}
"""One of each store, and of the facades one each."""

_TRIED_APART = {f"async-{name}" for name in REAL} - _BY_DEFAULT
"""Servers behind a facade that is tried on another one, and that are tried behind another facade."""


_IN_TURN = (
    *("fake", "redis62", "redis70", "valkey-resp2", "async-fake", "threaded-memory", "threaded-sqlite"),
    *("cluster", "async-cluster"),
)
"""Kinds that are much like another one that is tried: each test is tried on a part of them."""


def short(kinds: Iterable[str]) -> list[object]:
    """These kinds as parameters, of which the default suite tries one of each store; the others are exhaustive.

    What is tried apart is tried together, and what takes turns is tried in each test, only where more rounds are
    played (see :data:`ROUNDS`).
    """
    tried = [kind for kind in kinds if ROUNDS > 1 or kind not in _TRIED_APART]
    return [pytest.param(kind, marks=_marks_of(kind)) for kind in tried]


def _marks_of(kind: str) -> pytest.MarkDecorator | tuple[()]:
    if kind in _BY_DEFAULT:
        return ()
    if kind in _IN_TURN:
        return pytest.mark.exhaustive(turn=_IN_TURN.index(kind) % TURNS)
    return pytest.mark.exhaustive


on_every_backend = pytest.mark.parametrize("backend", BACKENDS, indirect=True)
"""For a test that is the short form of a promise on every store and server: none is left out by default."""

on_every_server = pytest.mark.parametrize("redis_backend", REDIS, indirect=True)
"""The same for a test over a namespace in Redis."""

on_every_pair_of_stores = pytest.mark.parametrize("two_stores", SHARED, indirect=True)
"""The same for a test of two stores over one place."""
