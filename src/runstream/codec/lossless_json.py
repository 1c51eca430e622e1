"""Encode values as JSON text (RFC 8259), and decode them equal.

What JSON has a type for is plain JSON. The rest is an object of one key, which is a tag: ``{"$tuple": [1, 2]}``,
``{"$bytes": "aGk="}`` (base64, RFC 4648), ``{"$float": "nan"}``, ``{"$str": …}`` (base64; text with lone
surrogates, which UTF-8 cannot carry), ``{"$dict": [[key, value], …]}`` for dicts with other keys than strings, and
the tags of :mod:`runstream.codec.extension_types`. A set has its members in the order of their msgpack bytes: the
same value has the same text in every process. A user's dict of one key that starts with ``$`` is written as
``$dict`` too, so nothing that a user stores is ever taken for a tag.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import orjson

from runstream.codec.extension_types import BY_TAG, SCALARS, form_of
from runstream.codec.msgpack_values import pack_stored
from runstream.codec.own_stack import with_room

__all__ = ["dump_json", "dump_plain_json", "load_json", "load_object", "load_plain_json"]

_NAN = struct.pack(">d", math.nan)
# orjson is ten times as fast, but makes null of not-a-number: it gets what is known to be plain
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode
# and makes text of types that JSON has not
_encode_plain = partial(
    orjson.dumps,
    option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS,
)


def dump_json(value: Any) -> str:
    """Dump a value as JSON text that UTF-8 can carry.

    Args:
        value: A value as :func:`runstream.codec.msgpack_values.unpack` gives it.

    Raises:
        ValueError: It is nested too deeply.
    """
    return with_room(_dump, value)


def _dump(value: Any) -> str:
    return _encode(_tag(value))


def dump_plain_json(values: Iterable[Any] | None, *, with_bytes: bool = True) -> list[str] | None:
    """Dump many plain values at once.

    Args:
        values: What :func:`~runstream.codec.plain_msgpack.unpack_plain` gives.
        with_bytes: Whether there may be bytes in them.

    Returns:
        Their texts; None if there are no values, or if one of them needs another tag than that of bytes.
    """
    if values is None:
        return None
    tagged = 0

    def tag(value: Any) -> dict[str, str]:
        nonlocal tagged
        if type(value) is not bytes or not with_bytes:
            raise TypeError
        tagged += 1
        return {"$bytes": _to_base64(value)}

    try:
        texts = list(map(partial(_encode_plain, default=tag), values))
    except TypeError:  # moments, surrogates, nested deeply
        return None
    # one byte is found at C speed, and hardly any text has this one but in a tag
    if sum(text.count(b"$") for text in texts) > tagged and sum(text.count(b'{"$') for text in texts) > tagged:
        return None  # what a user stores looks like a tag
    return list(map(bytes.decode, texts))


def load_json(text: str | bytes) -> Any:
    """Load a value that was dumped.

    Args:
        text: The JSON text.

    Raises:
        ValueError: It is not JSON, or has a broken tag.
    """
    is_tagged = _may_be_tagged(text)
    found = None if is_tagged else load_plain_json([text])
    if found is not None:
        return found[0]
    try:
        text = text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass")
        return with_room(_load_tagged if is_tagged else json.loads, text)
    except (TypeError, ArithmeticError, AttributeError) as error:
        raise ValueError(f"a broken tag: {type(error).__name__}: {error}") from error


def load_plain_json(texts: Sequence[str | bytes]) -> list[Any] | None:
    """Load many values at once, if there is no tag in any of them.

    Args:
        texts: The JSON text of each.

    Returns:
        What ``load_json`` gives for each; None if one of them may need more than that, or does not read.
    """
    if any(map(_may_be_tagged, texts)):
        return None
    try:
        together = b" ".join(text.encode() if isinstance(text, str) else text for text in texts)
        if _may_overflow(together):
            return None
        return list(map(orjson.loads, texts))
    except ValueError:  # surrogates; or what json takes though JSON does not: NaN
        return None


def _may_be_tagged(text: str | bytes) -> bool:
    """Whether there may be a tag in a text: hardly any other has its mark."""
    if isinstance(text, str):
        return "$" in text and '"$' in text
    return b"$" in text and b'"$' in text


_ALL = bytes(range(256))
# digits become zeros; signs stay
_TO_SHAPE = bytes.maketrans(b"123456789" + _ALL.translate(None, b"-0123456789"), b"0" * 9 + b" " * 245)
_LONGEST = 20  # what an integer of 64 bits has of digits and sign at most; one of more has as many at least
_STRETCH = 2**15


def _may_overflow(text: bytes) -> bool:
    """Whether a number in a text may be an integer of more than 64 bits, which orjson makes a float of."""
    stretches = (text[begin : begin + _STRETCH + _LONGEST] for begin in range(0, len(text), _STRETCH))
    return any(map(_has_long_number, stretches))


def _has_long_number(text: bytes) -> bool:
    # of 19 digits in a row, every ninth byte, say, has two: few texts have these, which takes little time to see
    for step in (19, 9, 1):
        shape = text[::step].translate(_TO_SHAPE)
        if b"0" * (19 // step) not in shape:
            return False
    return b"0" * 20 in shape or b"-" + b"0" * 19 in shape


def load_object(text: str | bytes) -> dict[str, Any]:
    """Load an object that was dumped.

    Args:
        text: The JSON text.

    Raises:
        ValueError: It is not JSON, has a broken tag, or is no object.
    """
    found = load_json(text)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - as for any other text that does not read
    return found


def _tag(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return value if _is_utf8(value) else {"$str": _to_base64(value.encode(errors="surrogatepass"))}
    if kind is dict:
        return _tag_dict(value)
    if kind is list:
        return _tag_all(value)
    if kind is float:
        return value if value - value == 0 else _tag_float(value)
    if kind is bytes:
        return {"$bytes": _to_base64(value)}
    if kind is int and -(2**63) <= value < 2**64:
        return value
    tagged = form_of(value)
    if tagged is None:
        return value
    if tagged in SCALARS:
        return {tagged.tag: tagged.dump(value)}
    return {tagged.tag: _tag_all(value if kind is tuple else sorted(value, key=pack_stored))}


def _tag_all(values: Iterable[Any]) -> list[Any]:
    # a loop, not a comprehension, which would take a second frame of Python's stack per level
    tagged = []
    for value in values:
        tagged.append(_tag(value))  # noqa: PERF401 - see above
    return tagged


def _tag_float(value: float) -> dict[str, str]:
    # not-a-number has a sign and a payload, which are no part of its value, but of its bytes
    if math.isnan(value) and (bits := struct.pack(">d", value)) != _NAN:
        return {"$nan": bits.hex()}
    return {"$float": repr(value)}


def _load_nan(text: str) -> float:
    (value,) = struct.unpack(">d", int(text, 16).to_bytes(8, "big"))
    return float(value)


def _tag_dict(value: dict[Any, Any]) -> dict[str, Any]:
    looks_like_a_tag = len(value) == 1 and type(key := next(iter(value))) is str and key.startswith("$")
    pairs = []
    plain_keys = not looks_like_a_tag
    for key, part in value.items():
        plain_keys = plain_keys and type(key) is str and _is_utf8(key)
        pairs.append([_tag(key), _tag(part)])
    return dict(pairs) if plain_keys else {"$dict": pairs}


def _untag(value: dict[str, Any]) -> Any:
    if len(value) != 1:
        return value
    ((tag, part),) = value.items()
    kind = BY_TAG.get(tag)
    if kind is not None:
        return kind.load(part)
    load = _LOAD.get(tag)
    return value if load is None else load(part)


_load_tagged = json.JSONDecoder(object_hook=_untag).decode


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_LOAD: dict[str, Callable[[Any], Any]] = {
    "$str": lambda text: _from_base64(text).decode(errors="surrogatepass"),
    "$bytes": _from_base64,
    "$float": float,
    "$nan": _load_nan,
    "$dict": lambda pairs: {key: part for key, part in pairs},  # noqa: C416 - dict(pairs) would take mappings too
}
