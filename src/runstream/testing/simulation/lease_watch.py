"""Looks at each exchange whether anybody does what a lease that is in force excludes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from runstream.stores.redis.scripts.calls import MICROSECONDS
from runstream.stores.redis.scripts.script import script_of
from runstream.testing.simulation.server import Done

__all__ = ["LeaseWatch"]

_OF_RUN = "lease"
_MARGIN_SECONDS = 0.001  # how far what is reckoned here may differ from what a script does
_NOTHING_LEFT = 2
"""What `clear` says where it has removed all that was noted of a run that never came to be."""
_REMOVES = {"delete": 1, "forget": b"ok", "retire": b"ok"}
"""By the script that removes what is noted of a run: its reply if it did. None does while there is a lease."""


class _Lease(NamedTuple):
    token: str
    epoch: int
    owner: str
    lasts: float
    expires: float

    def is_in_force(self, now: float) -> bool:
        """Whether it surely is: one whose deadline lies too far ahead was given by a clock that was set since."""
        return _MARGIN_SECONDS < self.expires - now < 2 * self.lasts - _MARGIN_SECONDS


class LeaseWatch:
    """Notes as a fault what was granted, written or removed while another one had a lease that excludes it.

    And a lease whose epoch is not higher than those of all before it.

    It keeps account of the leases that each server has granted by itself, whatever the server notes of them.

    Args:
        note_fault: Is told of each fault.
    """

    def __init__(self, note_fault: Callable[[str], None]) -> None:
        self._note_fault = note_fault
        self._leases: dict[tuple[str, str], dict[str, _Lease]] = defaultdict(dict)
        self._epochs: dict[tuple[str, str], int] = {}
        """The highest epoch that each run has had."""
        self._applied: set[tuple[Any, Any]] = set()
        """Batches, by producer and number: one that is sent again gets its reply whatever is leased by then."""

    def note(self, done: Done) -> None:
        """Note what an exchange has done, and compare it with the leases."""
        for command, reply in zip(done.exchange.commands, done.replies, strict=True):
            script = script_of(command)
            if script is None:
                continue
            args = command[3 + int(command[2]) :]
            outcome = reply[0] if isinstance(reply, list) and reply else reply
            if script.name == "append" and isinstance(reply, bytes):
                self._note_append(done, args)
            elif script.name == "lease" and outcome == b"ok":
                self._note_lease(done, int(reply[1]), *map(_text, args))
            elif outcome == _REMOVES.get(script.name, b""):
                run_id = _text(args[0])
                self._look(done, run_id, script.name)
                self._leases.pop((done.identity, run_id), None)
                if script.name != "retire":
                    self._epochs.pop((done.identity, run_id), None)
            elif script.name == "clear" and outcome == _NOTHING_LEFT:
                self._note_cleared(done, _text(args[0]))
            elif script.name == "switch" and outcome == b"ok":  # it is put back: all leases are void
                self._leases.pop((done.identity, _text(args[0])), None)

    def _note_lease(self, done: Done, epoch: int, *args: str) -> None:
        action, field, token, lasts, owner, run_id, _ = args
        leases, seconds = self._leases[done.identity, run_id], int(lasts) / MICROSECONDS
        if action == "release":
            if field in leases and leases[field].token == token:
                del leases[field]
            return
        if action == "take":
            excluded = [other for other in leases if _OF_RUN in (field, other) or other == field]
            others = [one for one in excluded if one != field or leases[one].owner != owner]
            self._look(done, run_id, f"{field} was granted to {owner}", others, token)
            former = leases.get(field)
            if former is None or former.token != token:
                self._compare_epoch(done, run_id, epoch)
            for one in excluded:
                del leases[one]
        else:
            self._look(done, run_id, f"{field} was renewed by {owner}", [field], token)
        leases[field] = _Lease(token, epoch, owner, seconds, done.at + seconds)

    def _note_cleared(self, done: Done, run_id: str) -> None:
        """Forget what a run had that never came to be: also a lease that a clock that is set might bring back."""
        self._look(done, run_id, "it was cleared")
        leases = self._leases[done.identity, run_id]
        for field in [field for field, lease in leases.items() if not lease.is_in_force(done.at)]:
            del leases[field]
        self._epochs.pop((done.identity, run_id), None)

    def _compare_epoch(self, done: Done, run_id: str, epoch: int) -> None:
        last = self._epochs.get((done.identity, run_id), 0)
        self._epochs[done.identity, run_id] = max(last, epoch)
        if epoch <= last:
            self._note_fault(f"{run_id}: a lease got epoch {epoch}, and another one had {last} before")

    def _note_append(self, done: Done, args: Sequence[Any]) -> None:
        batch = args[2], args[3]
        if batch in self._applied:
            return
        self._applied.add(batch)
        run_id, words = _text(args[0]), _text(args[5]).split(" ")
        counts = words[10:13] if len(words) > 6 else ("1", "0", "0")
        lanes, described, leases = (int(word.partition(":")[0]) for word in counts)
        at_lease = 6 + 2 * lanes + described
        field, granted = map(_text, args[at_lease : at_lease + 2]) if leases else ("", "")
        epoch, _, token = granted.partition(" ")
        if token:
            lease = self._leases[done.identity, run_id].get(field)
            is_mine = lease is not None and (lease.token, str(lease.epoch)) == (token, epoch)
            if lease is None or not is_mine or lease.expires < done.at - _MARGIN_SECONDS:
                self._note_fault(f"{run_id} was written to under a lease of {field} that is none any more")
        fields = [f"lease:{_text(name)}" for name in args[6 : 6 + 2 * lanes : 2]]
        if words[5] != "person":  # what a person says to the run is let through
            fields.append(_OF_RUN)
        self._look(done, run_id, "an append was applied", fields, token)

    def _look(
        self, done: Done, run_id: str, what: str, fields: Sequence[str] | None = None, mine: str = ""
    ) -> None:
        """Note a fault if one of these leases of a run (None: any) is in force, and not by this token."""
        leases = self._leases[done.identity, run_id]
        for field in leases if fields is None else fields:
            lease = leases.get(field)
            if lease is not None and lease.token != mine and lease.is_in_force(done.at):
                self._note_fault(f"{run_id}: {what}, and {lease.owner} had {field}")


def _text(arg: Any) -> str:
    return arg.decode(errors="replace") if isinstance(arg, bytes) else str(arg)
