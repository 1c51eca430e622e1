"""RESP2 and RESP3 as far as the fault proxy needs them: where a value ends, and which command a request is.

Source: https://redis.io/docs/latest/develop/reference/protocol-spec/ without its streamed values, which are
refused. All is pure and takes linear time; no byte is lost, whatever pieces a stream comes in.
"""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["UNPAIRED", "Framer", "command_name", "counts", "in_transaction"]

_HANDSHAKE = frozenset({"AUTH", "CLIENT", "HELLO", "PING", "READONLY", "SELECT"})
UNPAIRED = frozenset({"MONITOR", "PSUBSCRIBE", "PSYNC", "SSUBSCRIBE", "SUBSCRIBE", "SYNC"})
"""Commands that are not answered exactly once."""

_LINES, _BLOBS, _AGGREGATES = b"+-:_#,(", b"$!=", b"*~>%|"


class Framer:
    """Splits a stream of requests or replies into its values.

    A value is complete with all that it contains; an attribute (``|``) belongs to the value that it precedes.
    """

    def __init__(self) -> None:
        self.rest = bytearray()  # the bytes after the last complete value
        self._scanned = 0  # bytes of the rest that need not be scanned again
        self._missing = 1  # values that the outermost one still waits for, itself among them

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next bytes and return the values that they complete.

        Raises ValueError if the bytes are not RESP; then the values before them are in ``rest``, too.
        """
        self.rest += piece
        ends = []
        while (end := self._scan()) is not None:
            ends.append(end)
        values = [bytes(self.rest[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
        if ends:
            del self.rest[: ends[-1]]
            self._scanned -= ends[-1]
        return values

    def _scan(self) -> int | None:
        """Scan on to the end of the current value; None if it is not complete yet."""
        while self._scanned < len(self.rest):
            kind, children = self.rest[self._scanned], 0
            if kind not in _LINES + _BLOBS + _AGGREGATES:
                raise ValueError(f"no RESP value begins with {chr(kind)!r}")
            line_end = self.rest.find(b"\r\n", self._scanned)
            if line_end < 0:
                return None
            end = line_end + 2
            if kind not in _LINES:
                # ValueError for what is no number: streamed values, which no server sends
                length = int(self.rest[self._scanned + 1 : line_end])
                if kind in _AGGREGATES:
                    children = max(length, 0) * (2 if kind in b"%|" else 1) + (kind in b"|")
                elif length >= 0:  # -1 is RESP2's null
                    end += length + 2
                    if end > len(self.rest):
                        return None
            self._scanned = end
            self._missing += children - 1
            if not self._missing:
                self._missing = 1
                return end
        return None


def command_name(request: bytes) -> str:
    """The name of a complete command, in upper case. Raises ValueError for anything but an array of blobs."""
    head, length, word = request.split(b"\r\n", 2)
    if not (head[:1] == b"*" and length[:1] == b"$"):
        raise ValueError("a command is an array of blobs")
    return word[: int(length[1:])].decode("ascii", "replace").upper()


def in_transaction(names: list[str]) -> bool:
    """Whether the last MULTI among the commands has no EXEC or DISCARD yet."""
    return next((name == "MULTI" for name in reversed(names) if name in {"MULTI", "EXEC", "DISCARD"}), False)


def counts(names: Collection[str]) -> bool:
    """Whether a round trip of these commands counts: not if they are of the handshake alone."""
    return not _HANDSHAKE.issuperset(names)
