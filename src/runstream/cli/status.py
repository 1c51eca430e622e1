"""``runstream status``: how a namespace stands, and whether the drain keeps up."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from runstream.cli.options import AsJson, Url, open_to_look
from runstream.cli.output import bytes_text, emit_json, print_table
from runstream.model.protocols import RunStore, Sink
from runstream.stores.redis.checkpointer import RedisCheckpointer
from runstream.stores.redis.operations.inspecting import NamespaceStatus, namespace_status

__all__ = ["EPILOG", "status"]

EPILOG = """Examples:

runstream status --url 'redis://localhost?namespace=dev'

runstream status --json | jq .oldest_due_seconds"""


def status(url: Url = None, as_json: AsJson = False) -> None:
    """Show how a store stands: server, memory, runs, what waits to be archived, what is parked and why.

    A run is due when it has something to archive. An age of the oldest due run (seconds) that grows means
    that no drain worker keeps up. An archive shows its counts of runs and events instead.
    """
    namespace: NamespaceStatus | None = None
    with open_to_look(url) as store:
        if isinstance(store, RedisCheckpointer):
            namespace = store.perform(namespace_status(store.context.keys))
            facts = asdict(namespace)
        else:
            facts = _archive_facts(store)
    if as_json:
        emit_json(facts)
    elif namespace is None:
        _print_facts(facts)
    else:
        _print_namespace(namespace)


def _print_namespace(found: NamespaceStatus) -> None:
    memory = found.used_memory_bytes
    _print_facts(
        {
            "server": f"{found.server} {found.version}" if found.version else "does not say",
            "memory used": "does not say" if memory is None else bytes_text(memory),
            "namespace": f"{found.namespace} ({found.partitions} partitions)",
            "runs": found.runs,
            "due now": found.due,
            "due later (claimed or parked)": found.later,
            "oldest due since": f"{found.oldest_due_seconds:.1f} s",
            "parked": len(found.parked),
            "required archives": len(found.archives),
        }
    )
    if found.archives:
        print_table(["archive", "location"], sorted(found.archives.items()))
    if found.parked:
        print_table(["parked run", "reason"], sorted(found.parked.items()))


def _archive_facts(store: RunStore[Any, Any]) -> dict[str, Any]:
    infos = list(store.runs())
    facts: dict[str, Any] = {"runs": len(infos), "events": sum(info.last_offset for info in infos)}
    if isinstance(store, Sink):
        quarantined = sum(1 for _ in store.quarantine())
        facts = {"archive": store.archive_id, "location": store.location, **facts, "quarantined": quarantined}
    return facts


def _print_facts(facts: dict[str, Any]) -> None:
    print_table(["what", "value"], [(name, str(value)) for name, value in facts.items()])
