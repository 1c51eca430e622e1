"""Encode events and states of the user's own classes as bytes and plain fields, and decode them.

An event class has the ten fields of :class:`~runstream.model.events.PAEvent`, ``to_dict`` and ``from_dict``;
further keys in its dict survive. A state class has ``to_dict`` and ``from_dict``, or is a pydantic model, or is
``dict``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, Generic, cast

from runstream.codec import shapes
from runstream.codec.encoded_event import EncodedEvent
from runstream.codec.fallback import plain_data
from runstream.codec.field_checks import FIELDS, OWN, check_values, values_in
from runstream.codec.left_out import LeftOut, find_left_out, put_back
from runstream.codec.msgpack_values import Packer
from runstream.codec.own_stack import with_room
from runstream.codec.record import decode_record, encode_record, fields_of, further_fields, seed, traced
from runstream.codec.stored_fields import EventFields, StateFields, check_names
from runstream.codec.upcasts import SCHEMA, Upcasts
from runstream.codec.user_classes import refused
from runstream.model.errors import ConfigurationError, EncodingError, EventRefused, InvalidRunId, PayloadTooLarge
from runstream.model.events import PAEvent
from runstream.model.identifiers import check_iterable, check_keys, check_name, check_run_id, shown
from runstream.model.protocols import Fallback
from runstream.model.results import E, S
from runstream.model.state import STATUSES, RunState

__all__ = ["DEFAULT_MAX_EVENT_BYTES", "Codec"]

DEFAULT_MAX_EVENT_BYTES = 8 * 2**20
"""The largest record of an event that a store takes by default: 8 MiB."""


class Codec(Generic[E, S]):
    """Encodes and decodes one store's events and states. Pure, and safe to share between threads.

    Args:
        event_type: The class of the events; None: PAEvent.
        state_type: The class of the states; None: RunState.
        fallback: Turns a value of a type that is not stored into one that is; None: such a value is refused.
        max_event_bytes: The largest record that an event may have, in bytes.
        limits: Whether the limits of an append hold. Not for what was stored once, and gives the same bytes again.
        upcasts: The schema version of what is written, and the rules for what is read; None: there are none.
        traceparent: Gives the trace context that an event is recorded in, or None; None: none is recorded.

    Raises:
        ConfigurationError: A class has no way to make an event or a state from a dict.
    """

    def __init__(
        self,
        event_type: type[E] | None = None,
        state_type: type[S] | None = None,
        fallback: Fallback | None = plain_data,
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        *,
        limits: bool = True,
        upcasts: Upcasts | None = None,
        traceparent: Callable[[], str | None] | None = None,
    ) -> None:
        self.event_type: type[Any] = PAEvent if event_type is None else event_type
        self.state_type: type[Any] = RunState if state_type is None else state_type
        self.packer: Packer = Packer(fallback, limits=limits)
        self.max_event_bytes = max_event_bytes
        self._limits = limits
        self.upcasts = upcasts
        self._traceparent = traceparent
        self._mark: Mapping[str, int] = {} if upcasts is None else upcasts.mark
        if not callable(getattr(self.event_type, "from_dict", None)):
            raise ConfigurationError(f"event_type={self.event_type.__qualname__} has no from_dict")
        self.event_maker = shapes.event_maker(self.event_type)
        self._plain = shapes.plain_events(self.event_type)
        self._load_state = shapes.state_loader(self.state_type)

    # -- events ------------------------------------------------------------------------------------

    def encode_events(
        self, run_id: str, events: Iterable[E], keys: Sequence[str | None] | None = None
    ) -> list[EncodedEvent]:
        """Encode events of one run.

        Args:
            run_id: The run.
            events: The events.
            keys: The caller's keys, one or None for each event; None: there are none.

        Returns:
            The events as bytes, in order.

        Raises:
            InvalidRunId: An event belongs to another run, or the id cannot name a run.
            EncodingError: An event or a key cannot be stored; PayloadTooLarge for one over the limit.
            ConfigurationError: There are not as many keys as events.
        """
        check_run_id(run_id)
        check_iterable("events", events, instead="[event] is a list of one")
        if keys is None:
            return [self.encode_event(run_id, event) for event in events]
        events = list(events)
        check_keys(keys, len(events))
        return [self.encode_event(run_id, *pair) for pair in zip(events, keys, strict=True)]

    def encode_event(self, run_id: str, event: E, key: str | None = None) -> EncodedEvent:
        """Encode one event.

        Args:
            run_id: The run; its id was checked.
            event: The event.
            key: The caller's key, checked; None: there is none.

        Returns:
            The event as bytes.

        Raises:
            InvalidRunId: It belongs to another run.
            EncodingError: It cannot be stored; PayloadTooLarge where it is over the limit.
        """
        is_plain = type(event) is PAEvent or type(event) is self._plain.event_type
        fields: Mapping[str, Any] = event.__dict__ if is_plain else shapes.given_fields(event, "an event")
        own_id = fields.get("run_id")
        if type(own_id) is not str or own_id != run_id:
            raise InvalidRunId(f"an event of run {shown(own_id)} cannot be appended to run {run_id!r:.80}")
        values = shapes.values_of_event(fields, self._plain)
        if self._limits:
            self._make_exact(values)
        check_values(values)
        # a plain one has all of its fields; another may lack some and have others
        has_own = is_plain and len(fields) == len(OWN)
        if not has_own and (extra := {k: v for k, v in fields.items() if k not in OWN}):
            check_names(extra, is_stored=type(event) is EventFields)
            values.append({**extra, **self._mark})
        elif self._mark:
            values.append(dict(self._mark))
        if key is not None:
            values += [key] if len(values) > len(FIELDS) else [None, key]
        record, untraced = encode_record(self.packer, seed(run_id), values), None
        if self._traceparent is not None and (context := self._traceparent()) is not None:
            untraced, record = record, encode_record(self.packer, seed(run_id), traced(values, context))
        if len(record) > self.max_event_bytes and self._limits:
            raise PayloadTooLarge(
                f"an event of run {run_id!r} has {len(record)} bytes; the limit is {self.max_event_bytes}"
                " (max_event_bytes): store large values elsewhere and put a reference in the payload",
                path="payload",
                size=len(record),
                limit=self.max_event_bytes,
            )
        # a plain int, not a bool that was stored as a seq
        return EncodedEvent(
            record, values[_LANE], values[_KIND], values[_SESSION], int(values[_SEQ]), key, untraced
        )

    def _make_exact(self, values: list[Any]) -> None:
        """Give an event plain numbers, not the user's own kind of them, and a payload that is a dict."""
        seq, ts, payload = values[_SEQ], values[_TS], values[_PAYLOAD]
        # as their base types have it, whatever methods the user's kind may override
        if type(seq) is not int and isinstance(seq, int):
            values[_SEQ] = int.__int__(seq)
        if type(ts) is not float and isinstance(ts, float):
            values[_TS] = float.__float__(ts)
        elif type(ts) is not int and isinstance(ts, int):
            values[_TS] = int.__int__(ts)
        if type(payload) is not dict:
            values[_PAYLOAD] = plain = self.packer.plain(payload, "payload")
            if type(plain) is not dict:
                raise EncodingError(
                    f"payload: it is a dict, not {type(payload).__qualname__}; put the value under a key",
                    path="payload",
                )

    def decode_event(self, run_id: str, offset: int, record: bytes, given_as: str | None = None) -> E:
        """Decode one event.

        Args:
            run_id: The run that the record was found in.
            offset: The offset that it was found at, for the errors.
            record: The wire record.
            given_as: The run that it is to be an event of; None: its own.

        Returns:
            The event.

        Raises:
            CorruptRecordError: The record does not read.
            EventRefused: A rule or the event type refuses it.
            UnsupportedVersion: A newer runstream, or a newer version of the program, wrote it.
        """
        values = decode_record(run_id, offset, record)
        make, name = self.event_maker, given_as or run_id
        if make is not None and (self.upcasts is None or self.upcasts.is_current(further_fields(values))):
            with suppress(Exception):  # the class itself says it better
                return cast("E", make(name, values))
        return self.read_event(
            offset, fields_of(name, values), lambda: fields_of(name, decode_record(run_id, offset, record))
        )

    def read_event(self, offset: int, fields: dict[str, Any], load_again: Callable[[], dict[str, Any]]) -> E:
        """Make an event from its fields as they were stored, upcast if there are rules.

        Args:
            offset: Its offset, for the errors.
            fields: The fields by name. The event type may take them apart.
            load_again: Gives the fields as they are stored, for the error.

        Raises:
            EventRefused: A rule or the event type refuses them.
            UnsupportedVersion: A newer version of the program wrote it.
        """
        try:
            return self.make_event(
                offset, fields if self.upcasts is None else self.upcasts.upcast_event(offset, fields)
            )
        except EventRefused as error:
            error.fields = load_again()
            raise

    def as_own(self, event: PAEvent) -> E:
        """An event that this library makes, as one of the event type.

        Args:
            event: The event.

        Raises:
            EncodingError: The event type refuses it.
        """
        if self.event_type is PAEvent:
            return cast("E", event)
        try:
            return self.make_event(0, event.to_dict())
        except EventRefused as error:  # it has not been stored
            raise EncodingError(
                f"{self.event_type.__qualname__} refuses an event of kind {shown(event.kind)}: {error.__cause__}",
                path="kind",
            ) from error

    def make_event(self, offset: int, fields: dict[str, Any]) -> E:
        """Make an event from its fields.

        Args:
            offset: Its offset, for the error.
            fields: The fields by name.

        Raises:
            EventRefused: The event type refuses them.
        """
        if self.event_maker is not None and fields.keys() >= OWN:
            with suppress(Exception):  # the class itself says it better
                return cast("E", self.event_maker(fields["run_id"], [*values_in(fields)]))
        try:
            return cast("E", self.event_type.from_dict({**fields}))  # a copy: it may take what it gets apart
        except Exception as error:  # the user's class may raise anything for a kind that it does not know
            at = fields["run_id"], offset
            what = f"event {offset} of run {at[0]!r}"
            raise refused(what, "event_type", self.event_type, error, at, fields) from error

    # -- states ------------------------------------------------------------------------------------

    def snapshot_fields(self, run_id: str, state: S, left_out: LeftOut | None = None) -> dict[str, Any]:
        """A state that is to be saved for a run, as a dict.

        Args:
            run_id: The run.
            state: The state.
            left_out: What the class left out of the state that this one was made from; it is put back.

        Raises:
            InvalidRunId: It is the state of another run.
            EncodingError: It cannot be stored.
        """
        fields = self.state_fields(state)
        own_id = fields.get("run_id", run_id)
        if not isinstance(own_id, str) or str.__str__(own_id) != run_id:
            raise InvalidRunId(f"a state of run {shown(own_id)} cannot be saved for run {run_id!r:.80}")
        return {**with_room(put_back, fields, left_out, self.packer.plain), **self._mark}

    def left_out(self, stored: Mapping[str, Any], state: S) -> LeftOut | None:
        """What a state's class left out.

        Args:
            stored: The fields that the state was made from.
            state: What ``make_state`` has made of them, before anybody has changed it.

        Returns:
            What a save is to put back; None for nothing, and where the state cannot be saved as it was loaded.
        """
        try:
            return with_room(find_left_out, stored, self.state_fields(state), self.packer.plain)
        except Exception:  # noqa: BLE001 - the user's class may raise anything; to save such a state raises it again
            return None

    def state_fields(self, state: S) -> dict[str, Any]:
        """A state as a dict.

        Args:
            state: The state.

        Returns:
            Its fields by name.

        Raises:
            EncodingError: It gives no dict, or one with other keys than strings.
            ConfigurationError: It is a dict, and the store reads states as something else.
        """
        fields: Any
        if isinstance(state, dict):
            if self.state_type is not dict:
                raise ConfigurationError(
                    f"this store reads states as {self.state_type.__qualname__}; open it with state_type=dict"
                    " to save and load dicts"
                )
            fields = dict(dict.items(state))
        else:
            fields = shapes.fields_of_state(state)
        for key in fields:
            if type(key) is not str:
                raise EncodingError(f"the keys of a state are plain strings, not {shown(key)}", path=shown(key))
        check_names(fields, is_stored=type(state) is StateFields)
        check_name("session_id", fields.get("session_id", ""))
        return cast("dict[str, Any]", fields)

    def new_state(self, run_id: str) -> S:
        """The state of a run that has none yet: nothing but its run id.

        Args:
            run_id: The run.

        Raises:
            ConfigurationError: The state type does not make one of that.
        """
        try:
            return self.make_state(run_id, {"run_id": run_id})
        except EventRefused as error:  # nothing is stored that it could refuse
            raise ConfigurationError(
                f"state_type={error.event_type} makes no state of a run id alone: {error.__cause__}; save the"
                f" first state of run {run_id!r}, or give its other fields defaults"
            ) from error

    def status_of(self, fields: Mapping[str, Any]) -> str | None:
        """The run's status as a state's fields have it; None where that is no status of a run."""
        status = fields.get("status")
        status = status._value_ if isinstance(status, Enum) else status  # its property may be the user's own
        return status if isinstance(status, str) and status in STATUSES else None

    def upcast_state(self, run_id: str, offset: int, fields: dict[str, Any]) -> dict[str, Any]:
        """Make a state's fields, as they were stored, those of this version, if there are rules.

        Args:
            run_id: The run.
            offset: The offset that it covers, for the errors.
            fields: The fields by name, which stay as they are.

        Raises:
            EventRefused: A rule refuses them.
            UnsupportedVersion: A newer version of the program wrote it.
        """
        return fields if self.upcasts is None else self.upcasts.upcast_state(run_id, offset, fields)

    def make_state(self, run_id: str, fields: dict[str, Any], offset: int = 0) -> S:
        """Make a state from its fields.

        Args:
            run_id: The run, for the error.
            fields: The fields by name.
            offset: The offset that its snapshot covers, for the error.

        Raises:
            EventRefused: The state type refuses them.
        """
        mark = {name: fields.pop(name) for name in (SCHEMA,) if name in fields}
        stored = {**fields}
        try:
            # the very dict: what the class takes out of it, it knows
            return cast("S", self._load_state(fields))
        except Exception as error:  # the user's class may raise anything
            what = f"the snapshot of run {run_id!r} at offset {offset}"
            raise refused(what, "state_type", self.state_type, error, (run_id, offset), stored) from error
        finally:
            fields.update(mark)


_SESSION, _LANE, _SEQ, _TS, _KIND, _PAYLOAD = (
    FIELDS.index(name) for name in ("session_id", "lane_id", "seq", "ts", "kind", "payload")
)
