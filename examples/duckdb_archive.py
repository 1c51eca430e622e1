"""A JSONL archive, asked with DuckDB: tokens by lane, and the slowest tools, over all runs.

    pip install 'runstream[testing]' duckdb && python examples/duckdb_archive.py

DuckDB reads the lines as they are. (A SQLite archive it reads by an extension that it loads from the network;
Python's own sqlite3 needs none.) It prints::

    archived 12 events of 3 runs
    lane: critic, answers: 3, tokens: 360
    lane: main, answers: 3, tokens: 1255
    tool: search, calls: 3, slowest: 2.5 s
"""

import tempfile

import duckdb

import runstream
from runstream import PAEvent

TOKENS = """
    SELECT lane_id AS lane, count(*) AS answers, sum(CAST(payload->>'$.usage.input_tokens' AS BIGINT)) AS tokens
    FROM events WHERE kind = 'model.response' GROUP BY lane ORDER BY lane
"""
SLOWEST = """
    SELECT started.payload->>'$.tool' AS tool, count(*) AS calls, max(result.ts - started.ts) AS slowest
    FROM events AS started JOIN events AS result
      ON result.run_id = started.run_id AND result.parent_span_id = started.span_id
    WHERE started.kind = 'tool.started' AND result.kind = 'tool.result' GROUP BY tool
"""


def events_of(run_id: str, number: int) -> list[PAEvent]:
    """What an agent would have written; the times are given, so that this prints the same each time."""
    began = 1_800_000_000.0 + 60 * number
    usage = {"input_tokens": 400 + 10 * number}
    return [
        PAEvent(run_id, kind="tool.started", seq=1, ts=began, span_id="s1", payload={"tool": "search"}),
        PAEvent(run_id, kind="tool.result", seq=2, ts=began + number, parent_span_id="s1", payload={"hits": 3}),
        PAEvent(run_id, kind="model.response", seq=3, ts=began + number + 1, payload={"usage": usage}),
        PAEvent(run_id, kind="model.response", seq=1, lane_id="critic", payload={"usage": {"input_tokens": 120}}),
    ]


with tempfile.TemporaryDirectory() as directory, runstream.connect("fake:duckdb") as hot:
    for number, run_id in ((1, "trip-1"), (2.5, "trip-2"), (2, "trip-3")):
        hot.save_events(events_of(run_id, number))
    with runstream.JSONLCheckpointer(directory) as archive:
        report = runstream.DrainWorker(hot, [archive]).drain_once()  # `runstream drain --to jsonl:runs`
    print(f"archived {report.events} events of {report.runs} runs")

    base = duckdb.connect()
    texts = dict.fromkeys(("run_id", "lane_id", "kind", "span_id", "parent_span_id"), "VARCHAR")
    columns = {**texts, "ts": "DOUBLE", "payload": "JSON"}
    base.execute(f"CREATE VIEW events AS FROM read_json('{directory}/*/events.jsonl', columns = {columns})")
    for row in base.execute(TOKENS).fetchall():
        print("lane: {}, answers: {}, tokens: {}".format(*row))
    for row in base.execute(SLOWEST).fetchall():
        print("tool: {}, calls: {}, slowest: {} s".format(*row))
