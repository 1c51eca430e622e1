"""Read what older versions of a program wrote: rules that make an older event or state a newer one.

A program that has a schema version writes it beside each event, as a further field, and beside each state, as one
more member: ``"$schema": 3``. None stands for version 1, so that a program without a version, and the first
version of one that has, write what they always wrote. No user's field can have that name: none may start with
``$``.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, TypeAlias, TypeVar

from runstream.codec.own_stack import with_room
from runstream.model.errors import (
    ConfigurationError,
    CorruptRecordError,
    EncodingError,
    EventRefused,
    UnsupportedVersion,
)
from runstream.model.identifiers import shown, told

__all__ = ["SCHEMA", "Rule", "Upcasts", "check_mark", "without_mark"]

SCHEMA = "$schema"
"""The member of an event or state that has its schema version."""

Rule: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes the fields of one version those of the next. It may change the dict that it is given, and return that."""

_AnyRule = TypeVar("_AnyRule", bound=Rule)
_FIRST = 1

# what places an event in its run: leases, lanes' snapshots and ``list_events`` go by what was written
_FIXED = ("run_id", "session_id", "lane_id", "seq", "ts")
_TEXTS = ("kind", "visibility")


class Upcasts:
    """The schema version of a program, and its rules to read what older versions of it wrote.

    A store that is opened with it (``upcasts=…``) notes the version beside all that it writes, and applies the
    rules to all that it reads; what is stored stays as it is. A rule makes one event of one event, or one state of
    one state, from one version to the next. Versions between which there is no rule differ in nothing.

    It is pickled with a store if its rules are functions of a module, each under its own name.

    Args:
        version: The version that this program writes, and the newest that it reads. What has no version beside it
            is of version 1.

    Raises:
        ConfigurationError: That is no version: an integer from 1 on.
    """

    def __init__(self, version: int) -> None:
        if not _is_version(version):
            raise ConfigurationError(f"version={shown(version)}: a schema version is an integer from 1 on")
        self.version: int = version
        self._of_events: dict[tuple[int, str | None], Rule] = {}
        self._of_states: dict[int, Rule] = {}

    def event(self, kind: str | None = None, *, since: int) -> Callable[[_AnyRule], _AnyRule]:
        """Add a rule for events: the function that is decorated gets an event's fields, by name, and returns them.

        It may change all but ``run_id``, ``session_id``, ``lane_id``, ``seq`` and ``ts``. Where it changes the
        kind, the rules of later versions are those for the new kind.

        Args:
            kind: The kind, as the version ``since`` wrote it. None: every kind; such a rule comes before the one
                for the event's own kind.
            since: The version from which it leads to the next one.

        Returns:
            The decorator, which gives the function back.

        Raises:
            ConfigurationError: There is no such version before this program's, or the rule is there already.
        """
        of_kind = kind.value if isinstance(kind, Enum) else kind
        return self._adding(self._of_events, (since, of_kind), since)

    def state(self, *, since: int) -> Callable[[_AnyRule], _AnyRule]:
        """Add a rule for states: the function that is decorated gets a state's fields, by name, and returns them.

        It may change all but ``run_id``.

        Args:
            since: The version from which it leads to the next one.

        Returns:
            The decorator, which gives the function back.

        Raises:
            ConfigurationError: There is no such version before this program's, or the rule is there already.
        """
        return self._adding(self._of_states, since, since)

    def _adding(self, rules: dict[Any, Rule], key: Any, since: int) -> Callable[[_AnyRule], _AnyRule]:
        if not _is_version(since) or since >= self.version:
            raise ConfigurationError(
                f"since={shown(since)}: a rule leads from a version to the next one, of those from 1 to"
                f" {self.version}, which is this program's"
            )
        if key in rules:
            raise ConfigurationError(f"there is a rule from version {since} already: {shown(rules[key])}")

        def add(rule: _AnyRule) -> _AnyRule:
            rules[key] = rule
            return rule

        return add

    @property
    def mark(self) -> dict[str, int]:
        """The member that is written beside an event or state: none for version 1."""
        return {SCHEMA: self.version} if self.version > _FIRST else {}

    def is_current(self, fields: Mapping[str, Any]) -> bool:
        """Whether an event is of this version, so that no rule is for it.

        Args:
            fields: Its fields, or those that it has besides the ten.
        """
        return bool(fields.get(SCHEMA, _FIRST) == self.version)

    def upcast_event(self, offset: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Make an event of whatever version one of this version.

        Args:
            offset: Its offset, for the errors.
            fields: Its fields as they were stored; they stay as they are.

        Returns:
            Its fields, without the version.

        Raises:
            UnsupportedVersion: It is of a newer version.
            CorruptRecordError: Its version is none.
            EventRefused: A rule fails.
        """
        run_id = str(fields.get("run_id"))
        event = _Subject(f"event {offset} of run {run_id!r}", run_id, offset, fields, _FIXED, _TEXTS)

        def to_next(version: int, fields: dict[str, Any]) -> dict[str, Any]:
            fields = event.apply(self._of_events.get((version, None)), version, fields)
            # the kind as it is by now
            return event.apply(self._of_events.get((version, fields.get("kind"))), version, fields)

        return self._upcast(event, to_next)

    def upcast_state(self, run_id: str, offset: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Make a state of whatever version one of this version.

        Args:
            run_id: Its run.
            offset: The offset that it covers, for the errors.
            fields: Its fields as they were stored; they stay as they are.

        Returns:
            Its fields, without the version.

        Raises:
            UnsupportedVersion: It is of a newer version.
            CorruptRecordError: Its version is none.
            EventRefused: A rule fails.
        """
        state = _Subject(f"the state of run {run_id!r} at offset {offset}", run_id, offset, fields, _FIXED[:1])
        return self._upcast(
            state, lambda version, fields: state.apply(self._of_states.get(version), version, fields)
        )

    def _upcast(
        self, subject: _Subject, to_next: Callable[[int, dict[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        first = subject.version(self.version)
        fields = without_mark(subject.stored)
        if first < self.version:  # what a rule changes, or raises, shall not change what was stored
            fields = with_room(_copied, fields)
        for version in range(first, self.version):
            fields = to_next(version, fields)
        return fields

    def __getstate__(self) -> dict[str, Any]:
        for rule in (*self._of_events.values(), *self._of_states.values()):
            try:
                pickle.dumps(rule)
            except Exception as error:  # a callable may raise anything
                raise ConfigurationError(
                    "a store with upcasts goes to another process only if each of its rules is a function of a"
                    f" module, under a name of its own; {shown(rule)} is not: {told(error)}"
                ) from error
        return self.__dict__


class _Subject(NamedTuple):
    """The event or state that rules are applied to: its name for people, and its fields as they were stored.

    Rules change none of the fields ``fixed``; the fields ``texts`` are text.
    """

    name: str
    run_id: str
    offset: int
    stored: dict[str, Any]
    fixed: Sequence[str]
    texts: Sequence[str] = ()

    def version(self, newest: int) -> int:
        """The version that it is of, which is checked."""
        found: Any = self.stored.get(SCHEMA, _FIRST)
        if not _is_version(found):
            raise CorruptRecordError(
                f"{self.name} does not read: {shown(found)} is no schema version",
                run_id=self.run_id,
                offset=self.offset,
            )
        if found > newest:
            raise UnsupportedVersion(
                f"{self.name} has schema version {found}; the Upcasts here know up to {newest}: upgrade this"
                " program",
                found=found,
                supported=newest,
                run_id=self.run_id,
                offset=self.offset,
            )
        return int(found)

    def apply(self, rule: Rule | None, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """What a rule makes of the fields, which are its own to change; None leaves them."""
        if rule is None:
            return fields
        of_kind = f", of kind {shown(fields.get('kind'))}," if self.texts else ""
        try:
            return self._checked(rule(fields))
        except Exception as error:  # a user's rule may raise anything
            named = str(getattr(rule, "__qualname__", shown(rule)))
            raise EventRefused(
                f"{self.name}{of_kind} cannot be upcast from schema version {version} to {version + 1}: the rule"
                f" {named} fails: {told(error)}",
                run_id=self.run_id,
                offset=self.offset,
                event_type=named,
                fields=dict(self.stored),
            ) from error

    def _checked(self, made: Any) -> dict[str, Any]:
        if not isinstance(made, dict) or not all(isinstance(name, str) for name in made):
            raise TypeError(f"it gives no dict of fields, but {shown(made)}")
        for name in made:
            if name.startswith("$"):
                raise ValueError(f"it gives a field {name!r:.80}, and none may start with '$'")
        for name in self.fixed:
            if made.get(name) != self.stored.get(name):
                raise ValueError(f"it changes {name}, which no rule may")
        # one of an earlier version may be something else, and stay so
        if (
            self.texts
            and not isinstance(made.get("payload", {}), dict)
            and isinstance(self.stored["payload"], dict)
        ):
            raise TypeError(f"payload is a dict, not {shown(made['payload'])}")
        for name in self.texts:
            if isinstance(made.get(name), Enum):
                made[name] = made[name].value
            if not isinstance(made.get(name), str):
                raise TypeError(f"{name} is text, not {shown(made.get(name))}")
        return made


def _copied(value: Any) -> Any:
    """A copy of plain data that shares nothing that can be changed."""
    kind = type(value)
    if kind is dict:
        return dict(zip(value, map(_copied, value.values()), strict=True))
    if kind in (list, tuple):
        return kind(map(_copied, value))
    return set(value) if kind is set else value


def check_mark(fields: Mapping[str, Any]) -> None:
    """Refuse a schema version that is none, where there is one among these fields.

    Args:
        fields: The fields of an event or state that was stored once.

    Raises:
        EncodingError: It is none.
    """
    if not _is_version(fields.get(SCHEMA, _FIRST)):
        raise EncodingError(f"{SCHEMA} is a schema version, not {shown(fields[SCHEMA])}", path=SCHEMA)


def without_mark(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields without their schema version."""
    return {name: value for name, value in fields.items() if name != SCHEMA} if SCHEMA in fields else fields


def _is_version(value: Any) -> bool:
    return type(value) is int and value >= _FIRST
