"""The highest ``seq`` of what a settling trims, for readers who want higher ones only and so can do without it.

It is known as far as the worker expects to trim, by what it loaded of the run: settling trims no further, and then
leaves the run due. Entries that were archived some time before are read once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from runstream.drain.claimed_run import Chunk
from runstream.model.archive_records import highest_seq
from runstream.model.run_head import last_unneeded
from runstream.stores.redis.namespace import Namespace
from runstream.stores.redis.operations.worker.drain import SeqSpan
from runstream.stores.redis.operations.worker.load import LoadRequest

__all__ = ["Trim", "find_spans"]

Trim: TypeAlias = Literal["covered", "archived", "never"]


def find_spans(namespace: Namespace, chunks: Sequence[Chunk], trim: Trim) -> list[SeqSpan | None]:
    """The highest ``seq`` of what is to be trimmed when these chunks are settled; None where it is not known."""
    if trim == "never":
        return [None] * len(chunks)
    spans: list[SeqSpan | None] = [_span(chunk, trim) for chunk in chunks]
    earlier = {
        index: LoadRequest(
            chunk.run_id,
            span.after + 1,
            min(span.upto, chunk.claimed.proven.offset),
            largest=chunk.claimed.run.head.largest,
            origins=chunk.claimed.run.head.origins,
        )
        for index, (chunk, span) in enumerate(zip(chunks, spans, strict=True))
        if span is not None and span.after < min(span.upto, chunk.claimed.proven.offset)
    }
    for index, peak in zip(earlier, namespace.load_peaks(list(earlier.values())), strict=True):
        span = spans[index]
        spans[index] = None if span is None or peak is None else span._replace(seq=max(span.seq, peak))
    return spans


def _span(chunk: Chunk, trim: Trim) -> SeqSpan:
    """What is to be trimmed beyond what is noted, with the highest ``seq`` of what the chunk has of it."""
    run, proven = chunk.claimed.run, chunk.claimed.proven.offset
    after, upto = run.noted_to, chunk.end.offset
    if trim == "covered":
        covered = {lane_id: snapshot.offset for lane_id, snapshot in run.head.snapshots.items()}
        upto = last_unneeded(upto, covered, run.since)
    upto = max(upto, after)
    own = chunk.entries[max(0, after - proven) : max(0, upto - proven)]
    return SeqSpan(after, upto, highest_seq(own))
