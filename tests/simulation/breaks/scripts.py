"""Breaks of scripts: a check left out, or something else noted."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.breaks.one import Break, in_script

__all__ = ["IN_SCRIPTS"]

IN_SCRIPTS: Sequence[Break] = (
    Break(
        "a batch that is sent again is appended again",
        "storm",
        in_script("append", ("if sent_batch == batch then", "if sent_batch == batch and false then")),
        seed=6,
    ),
    Break(
        "a batch that comes after its producer's next one is appended",
        "storm",
        in_script("append", ("if sent_batch > batch then return {'stale', now} end", "")),
        seed=31,
    ),
    Break(
        "a batch that is sent again is appended again, together with others",
        "together",
        in_script("gather", ("(tonumber(match(before, '^%d+')) or math.huge) < tonumber(number)", "true")),
        seed=3,
    ),
    Break(
        "the replies to what goes together are not kept",
        "together",
        in_script("gather", ("call('HSET', KEYS[3], unpack(heard_now))\n", "")),
        seed=2,
    ),
    Break(
        "what goes together drops the reply that the fast path has kept",
        "pairs",
        in_script(
            "gather",
            ("  call('HSET', KEYS[3], by_producer, by_reply)\n", ""),
        ),
        seed=20,
    ),
    Break(
        "what the writers of what goes together have seen is not compared",
        "lost together",
        in_script("gather", (" and is_there(seen)", "")),
    ),
    Break(
        "the fast path drops the reply that is kept for another producer",
        "readers",
        in_script("append", ("not (by and string.sub(by, 1, #producer) ~= producer) and ", "")),
        seed=15,
    ),
    Break(
        "an append drops the reply that the fast path has kept",
        "readers",
        in_script("append", ("  call('HSET', KEYS[3], by_producer, by_reply)\n", "")),
        seed=3,
    ),
    Break(
        "what a writer has seen is not compared",
        "failovers",
        in_script("append", ("if seen ~= '-' and seen ~= meta[2] then", "if false then")),
        seed=1,
    ),
    Break(
        "what was trimmed is taken for what its writer has seen",
        "losses",
        in_script(
            "append",
            ("if parse_cursor(mark) <= seen_offset then there = mark end", ""),
            ("if lacks and tonumber(", "if false and tonumber("),
        ),
    ),
    Break(
        "the fast path appends wherever the run ends",
        "readers",
        in_script("append", ("is_free = seen == meta[2] and before", "is_free = meta[2] and before")),
        seed=4,
    ),
    Break(
        "the expected offset is not compared",
        "limits",
        in_script("append", ("adopted_after and expected ~= '-' and tonumber(expected) ~= offset", "true")),
    ),
    Break(
        "an append makes a run longer than it may be",
        "limits",
        in_script("append", ("if entries + written > tonumber(most) then", "if false then")),
    ),
    Break(
        "an append does not make its run due",
        "few",
        in_script(
            "append",
            ("if meta[10] == seen then enlist(KEYS[5], 'NX', now, run_id) end", ""),
            ("  enlist(KEYS[5], 'NX', now, run_id)\n", ""),
        ),
        seed=3,
    ),
    Break(
        "a chain does not follow from the one before",
        "storm",
        in_script("append", ("offset + 1, following(chain, record)", "offset + 1, following(0, record)")),
    ),
    Break(
        "a snapshot replaces one that its writer has not seen",
        "storm",
        in_script(
            "append", ("if compares then return {'snapshot', text(snapshot.revision - 1), text(i)} end", "")
        ),
        seed=2,
    ),
    Break(
        "a run is settled beyond the proof",
        "storm",
        in_script(
            "settle",
            (
                "if trim == 'archived' then\n  limit = proven_to",
                "if trim == 'archived' then\n  limit = offset_of(meta['last'])",
            ),
            ("if limit > known_to then limit, is_held_back = known_to, true end", ""),
        ),
        seed=2,
    ),
    Break(
        "a run is not due any more, though its last event is not proven",
        "storm",
        in_script("settle", ("local done = offset == offset_of(meta['last']) and", "local done =")),
        seed=1,
    ),
    Break(
        "a worker that comes late moves the mark back",
        "lapses",
        in_script(
            "settle",
            ("    proven, offset = mark, offset_of(mark) -- somebody else has settled further\n", ""),
            ("if offset < offset_of(mark) then proven, offset = mark, offset_of(mark) end", ""),
        ),
        seed=18,
    ),
    Break(
        "a snapshot is settled that no archive has",
        "counters",
        in_script("settle", ("if archived[field] ~= token then", "if false then")),
        seed=8,
    ),
    Break(
        "a run of which all is archived stays due",
        "few",
        in_script("settle", ("local done = offset == offset_of(meta['last'])", "local done = false")),
    ),
    Break(
        "a run is settled without an archive that was added",
        "archives",
        in_script("settle", ("if missing then return {'archives', missing} end", "")),
        seed=2,
    ),
    Break(
        "a run is retired that is not archived",
        "ends",
        in_script(
            "retire",
            (
                "or (meta['mark'] or meta['start']) ~= meta['last'] or call('ZSCORE', KEYS[4], ARGV[1]) then",
                "then",
            ),
        ),
        seed=3,
    ),
    Break("a tombstone keeps no epoch", "clocks", in_script("retire", ("keep('epoch')", "")), seed=3),
    Break(
        "a retired run goes on where it began",
        "retirements",
        in_script("retire", ("'last', meta['last'],", "'last', meta['start'],")),
        seed=1,
    ),
    Break(
        "the token of a lease is not compared with what it is to write",
        "leases",
        in_script("append", ("if token ~= mine or epoch ~= of_mine then return {'unleased'} end", "")),
        seed=3,
    ),
    Break(
        "a deletion leaves the producers and the keys of a run",
        "deletions",
        in_script(
            "delete",
            ("call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[13])", "call('DEL', KEYS[1], KEYS[2])"),
        ),
        seed=2,
    ),
    Break(
        "a producer is heard before it has sent",
        "many",
        in_script(
            "append", ("local heard_now = hears_at(sent_at, microseconds, sent)", "local heard_now = microseconds")
        ),
        seed=3,
    ),
    Break(
        "producers are pruned, and nothing is noted of them",
        "many",
        in_script("append", ("  note_forgotten(KEYS[2], forgotten)\n", "")),
    ),
    Break(
        "a lease is renewed that another one has taken",
        "leases",
        in_script(
            "lease",
            ("if current ~= token or epoch ~= ARGV[7] then return {'lost'} end", "epoch = epoch or text(now)"),
        ),
        seed=3,
    ),
    Break(
        "a run is claimed, and others may claim it",
        "claims",
        in_script("claim", ("for i = 1, #due, 2 do call('ZADD', KEYS[1], 'XX', until_, due[i]) end", "")),
    ),
    Break(
        "a claim is not extended",
        "claims",
        in_script("extend", ("for i = 2, #ARGV do call('ZADD', KEYS[1], 'XX', until_, ARGV[i]) end", "")),
    ),
)
