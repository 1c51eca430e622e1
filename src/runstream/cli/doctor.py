"""``runstream doctor``: show what a server is, whether it is fit for runs, and what is to be changed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from runstream.cli.support.exit_codes import ExitCode
from runstream.cli.support.options import AsJson, HotUrl, check_is_there
from runstream.cli.support.output import console, emit_json, make_table
from runstream.connect import open_server
from runstream.stores.redis.fitness.examine import Asked, examine
from runstream.stores.redis.fitness.facts import ServerFacts
from runstream.stores.redis.fitness.finding import Finding, Severity
from runstream.stores.redis.fitness.judging import judge

__all__ = ["EPILOG", "doctor"]

EPILOG = """Examples:

runstream doctor --url redis://localhost

runstream doctor --url 'redis://localhost?namespace=dev&durability=fsync'

runstream doctor --samples 0 --json | jq '.nodes[].findings[] | select(.severity == "error")'"""

_CODES = {Severity.ERROR: ExitCode.DOES_NOT_HOLD, Severity.WARNING: ExitCode.WARNINGS}


@dataclass(frozen=True, slots=True)
class _Node:
    """One server, and what was found of it."""

    facts: ServerFacts
    findings: Sequence[Finding]

    @property
    def severity(self) -> Severity:
        return max(finding.severity for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        latency, clock = self.facts.latency, self.facts.clock
        return {
            "place": self.facts.place,
            "severity": str(self.severity),
            "findings": [_plain(one) for one in self.findings],
            "latency": None if latency is None else latency._asdict(),
            "clock": None if clock is None else clock._asdict(),
            "durability": dict(self.facts.levels),
        }

    def print(self) -> None:
        """All of it, for people: a table, and what is to be changed, in lines that can be copied."""
        screen = console(sys.stdout)
        rows = [(one.check, str(one.severity), one.found) for one in self.findings]
        screen.print(self.facts.place, soft_wrap=True)
        screen.print(make_table(["check", "severity", "found"], rows))
        for one in self.findings:
            if one.severity is not Severity.OK:
                screen.print(f"\n{one.severity}: {one.check}: {one.without or one.found}")
                for line in one.mends:
                    screen.print(f"  {line}", soft_wrap=True)  # a line that is copied stays one


def _plain(finding: Finding) -> dict[str, Any]:
    return {**finding._asdict(), "severity": str(finding.severity), "mends": list(finding.mends)}


def doctor(
    server: Annotated[
        str | None, typer.Argument(metavar="URL", help="The server, as --url takes it.", show_default=False)
    ] = None,
    url: HotUrl = None,
    samples: Annotated[
        int, typer.Option(min=0, max=100_000, help="How many appends to time; with 0 nothing is appended.")
    ] = 200,
    as_json: AsJson = False,
) -> None:
    """Show what a server is, and whether it is fit for runs. What is not comes with the line that mends it.

    It looks at version and topology, persistence, eviction policy, memory, connections, replicas, durability,
    latency, scripts, rights, clock, timeouts and databases. What the server does not tell, or not this user, is
    left out and said to be. Of a line CONFIG SET the same without these words belongs in the server's
    configuration file, or it is gone after a restart.

    The latency is that of appends, at the URL's durability, in a namespace that is there for this alone and is
    removed again; so are the levels of durability tried. They take three seconds at most, and nothing of the URL's
    namespace is touched. A user who may not write, and a replica, are not tried. Of a cluster (redis+cluster://)
    each server that has slots is examined.

    An error, with which runs are lost, are not safe or cannot be written, is exit code 1; a warning, if there is
    nothing worse, exit code 5. Notes are exit code 0.
    """
    target = url if server is None else server
    check_is_there(target)
    with open_server(target) as (transport, place, options):
        asked = Asked.of(options, samples)
        nodes = [_Node(facts, judge(facts)) for facts in examine(transport, place, asked)]
    severity = max(node.severity for node in nodes)
    if as_json:
        emit_json({"severity": str(severity), "nodes": [node.to_dict() for node in nodes]})
    else:
        for number, node in enumerate(nodes):
            console(sys.stdout).print("\n" * bool(number), end="")
            node.print()
    if severity in _CODES:
        raise typer.Exit(_CODES[severity])
