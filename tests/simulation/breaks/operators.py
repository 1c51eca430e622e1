"""Breaks of scripts of leases and operators, and of what is noted of a partition: a check left out of each."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.breaks.one import Break, in_script

__all__ = ["OF_OPERATORS"]

OF_OPERATORS: Sequence[Break] = (
    Break(
        "a lease is taken that another one has",
        "leases",
        in_script(
            "lease",
            ("if current and current_owner ~= owner then return held(field, lease, now, token) end", ""),
        ),
    ),
    Break(
        "a lease that is renewed sets the epoch of all back",
        "renewals",
        in_script(
            "lease",
            (" .. server_identity() .. ' ' .. owner)", " .. server_identity() .. ' ' .. owner, 'epoch', epoch)"),
        ),
    ),
    Break(
        "a lane is leased of a run that is leased, or a run of which a lane is",
        "owners",
        in_script("lease", ("    if refusal then return refusal end\n    void[#void", "    void[#void")),
        seed=2,
    ),
    Break(
        "an append does not look whether the run is leased",
        "owners",
        in_script(
            "append",
            (
                "local refusal = meta[4] and not is_persons and held('lease', meta[4], microseconds, mine)",
                "local refusal",
            ),
        ),
    ),
    Break(
        "an append does not look whether a lane of it is leased",
        "intruders",
        in_script(
            "append",
            (
                "refusal = lane.lease and held('lease:' .. name, lane.lease, microseconds, mine)",
                "refusal = nil",
            ),
        ),
    ),
    Break(
        "a lease that was taken since is cleared",
        "no runs",
        in_script("clear", ("if expires > now then", "if false then")),
        seed=20,
    ),
    Break(
        "a run is retired that is leased",
        "ended",
        in_script(
            "retire",
            ("math.max(tonumber(meta['updated']), last_expiry(meta, now) - quiet)", "meta['updated'] + 0"),
        ),
        seed=2,
    ),
    Break(
        "a run is forgotten that is leased",
        "ended",
        in_script("forget", ("math.max(tonumber(score), last_expiry(meta, now) - quiet)", "tonumber(score)")),
        seed=2,
    ),
    Break(
        "a batch that was revoked is applied when it comes late",
        "late limits",
        in_script("revoke", ("call('HSET', KEYS[2], producer, table.concat(", "local _ = (table.concat(")),
        seed=28,
    ),
    Break(
        "a run is replaced by what has expired",
        "restores",
        in_script(
            "switch",
            (
                "if call('XLEN', KEYS[11]) ~= tonumber(count) or call('HLEN', KEYS[12]) ~= tonumber(keyed) then",
                "if false then",
            ),
        ),
        seed=10,
    ),
    Break(
        "what is put back is added again where its reply was lost",
        "restores",
        in_script("refill", ("if parse_cursor(ARGV[at]) > reached then", "if true then")),
        seed=2,
    ),
    Break(
        "the last archive is dropped",
        "drops",
        in_script(
            "drop",
            ("if call('HEXISTS', KEYS[1], ARGV[1]) == 1 and call('HLEN', KEYS[1]) == 1 then return 0 end", ""),
        ),
        seed=2,
    ),
    Break(
        "a worker requires its archives again",
        "drops",
        in_script("enlist", ("if call('HLEN', KEYS[1]) == 0 and #ARGV > 0 then", "if #ARGV > 0 then")),
        seed=3,
    ),
    Break(
        "a run that was deleted is parked",
        "deletes",
        in_script(
            "park", ("if not has_meta and call('EXISTS', KEYS[4], KEYS[5], KEYS[6]) == 0 then", "if false then")
        ),
        seed=8,
    ),
    Break(
        "a run that is not parked is unparked",
        "unparks",
        in_script("unpark", ("if call('HDEL', KEYS[2], ARGV[1]) == 0 then return 0 end", "")),
        seed=3,
    ),
    Break(
        "a set is put aside that is as it must be",
        "claims",
        in_script("aside", ("found ~= 'none' and found ~= ARGV[i]", "found ~= 'none'")),
        seed=2,
    ),
    Break(
        "a worker is forgotten that has reported",
        "lapses",
        in_script("report", ("if not seen or seen * 1000000 < now - tonumber(ARGV[3]) then", "if true then")),
    ),
)
