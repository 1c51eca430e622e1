"""The kinds of store that the suite runs on, by the names under which ``make_backend`` makes them."""

from __future__ import annotations

from tests.support.servers import PROGRAMS

REAL = [name for name in ("valkey", "redis62", "redis70") if name in PROGRAMS]
REDIS = ["fake", *REAL, *(["valkey-resp2"] if "valkey" in PROGRAMS else [])]
ASYNC = ["async-fake", *(f"async-{name}" for name in REAL), "threaded-memory", "threaded-sqlite"]
BACKENDS = ["memory", "jsonl", "sqlite", *REDIS, *ASYNC]
SHARED = [name for name in BACKENDS if "memory" not in name]  # memory belongs to one object
LIVE = [name for name in BACKENDS if "sqlite" not in name and "jsonl" not in name]
