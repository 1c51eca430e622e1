"""The dashboard and the alert rules ask for what a worker's /metrics has, and the page about them has it all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.commands import Place, Worker
from tests.support.servers import eventually, needs_server

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "monitoring.md").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads((DOCS / "monitoring/dashboard.json").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = yaml.safe_load((DOCS / "monitoring/alerts.yml").read_text("utf-8"))["groups"][0][
    "rules"
]

OF_TARGET = {"job", "instance"}  # the labels that Prometheus gives all that it scrapes
BUILT_IN = {"__rate_interval": "1m"}


def metrics_of(place: Place) -> dict[str, set[str]]:
    """The metrics of a worker that has archived something, and the labels of each."""
    place.node.raw.config_set("maxmemory", 10**9)  # some are there only where there is something to say
    place.emit("r", 3)
    with Worker(*place.drain, "--metrics-port", "0") as worker:
        worker.says("begins")
        eventually(lambda: "runstream_drain_held_events{" in worker.get("/metrics")[1])
        found: dict[str, set[str]] = {"up": set()}  # Prometheus's own
        for family in text_string_to_metric_families(worker.get("/metrics")[1]):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def labels_of(query: Any, metrics: Mapping[str, set[str]]) -> set[str]:
    """The labels of what a query gives. Fails where it asks for a metric or a label that there is not."""
    match query:
        case promql.MatrixSelector():
            return labels_of(query.vector_selector, metrics)
        case promql.VectorSelector():
            assert query.name is not None
            assert query.name in metrics
            labels = metrics[query.name] | OF_TARGET
            assert {matcher.name for matcher in query.matchers.matchers} <= labels, query
            return labels
        case promql.AggregateExpr():
            of_each = labels_of(query.expr, metrics)
            by = set(query.modifier.labels) if query.modifier else set()
            assert by <= of_each, query
            return by
        case promql.BinaryExpr():
            return labels_of(query.lhs, metrics) | labels_of(query.rhs, metrics)
        case promql.Call():
            labels = set[str]().union(*(labels_of(each, metrics) for each in query.args))
            if query.func.name != "histogram_quantile":
                return labels
            assert "le" in labels, query
            return labels - {"le"}
        case promql.ParenExpr():
            return labels_of(query.expr, metrics)
    assert isinstance(query, promql.NumberLiteral), query
    return set()


def parse(query: str) -> Any:
    """Parse a query of the dashboard: what it has in place of a value is a variable of the dashboard."""
    variables = {each["name"]: ".*" for each in DASHBOARD["templating"]["list"]} | BUILT_IN
    return promql.parse(re.sub(r"\$(\w+)", lambda found: variables[found[1]], query))


def drawn() -> Iterator[tuple[str, str]]:
    """The dashboard's queries, each with what its lines are named by."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"], target["legendFormat"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            ((query, label),) = re.findall(r"^label_values\((.+), (\w+)\)$", variable["query"]["query"])
            yield query, f"{{{{{label}}}}}"


def alerts() -> Iterator[tuple[str, str]]:
    """The alerts' queries, each with what is said where it gives something."""
    for rule in RULES:
        yield rule["expr"], rule["annotations"]["summary"]


@needs_server
def test_every_query_asks_for_metrics_and_labels_that_a_worker_has(place: Place) -> None:
    """In the dashboard and in the alert rules; and the page has each metric that is ours."""
    metrics = metrics_of(place)
    for query, said in [*drawn(), *alerts()]:
        labels = labels_of(parse(query), metrics)
        named = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", said))
        assert named <= labels | {"le"}, (query, said)
    ours = {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in metrics if name.startswith("runstream_")}
    assert set(re.findall(r"`(runstream_drain_\w+?)(?:_total)?`", PAGE)) == ours


@pytest.mark.parametrize(
    "query", ["up{nothing='x'}", "sum by (nothing) (up)", "nothing", "histogram_quantile(1, up)"]
)
def test_a_query_for_what_there_is_not_would_be_found(query: str) -> None:
    with pytest.raises(AssertionError):
        labels_of(parse(query), {"up": set()})


def test_the_page_says_of_each_alert_what_to_do() -> None:
    rows = re.findall(r"^\| `(Runstream\w+)` \| \S.* \| \S.* \|$", PAGE, re.MULTILINE)
    assert rows == [rule["alert"] for rule in RULES]
    assert {rule["labels"]["severity"] for rule in RULES} == {"critical", "warning"}


def test_no_two_panels_overlap() -> None:
    """Nor have the same id, under which Grafana keeps them apart."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (panel["gridPos"]["x"] + dx, panel["gridPos"]["y"] + dy)
        for panel in panels
        for dx in range(panel["gridPos"]["w"])
        for dy in range(panel["gridPos"]["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24
