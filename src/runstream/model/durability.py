"""How durable a write is when the call that made it returns."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from runstream.model.errors import ConfigurationError
from runstream.model.identifiers import glimpse

__all__ = ["PRIMARY", "Durability"]

_MOST_REPLICAS = 1_000


class Durability(NamedTuple):
    """A level of durability.

    Attributes:
        fsync: Whether the write is in the append-only file of the primary, on its disk.
        replicas: How many replicas have it.
    """

    fsync: bool = False
    replicas: int = 0

    @classmethod
    def parse(cls, text: Any) -> Self:
        """Read ``"primary"``, ``"fsync"`` or ``"replicated=N"``. Raises ConfigurationError for anything else."""
        if text == "primary":
            return cls()
        if text == "fsync":
            return cls(fsync=True)
        name, _, number = text.partition("=") if isinstance(text, str) else ("", "", "")
        if name == "replicated" and number.isascii() and number.isdigit() and 1 <= int(number) <= _MOST_REPLICAS:
            return cls(replicas=int(number))
        raise ConfigurationError(
            f"durability={glimpse(text)}: pass 'primary', 'fsync', or 'replicated=N' with the number of replicas"
        )

    def is_within(self, reached: Durability) -> bool:
        """Whether what has reached that has reached this."""
        return reached.replicas >= self.replicas and (reached.fsync or not self.fsync)

    def at_most(self, reached: Durability) -> Durability:
        """What has been reached of this."""
        return Durability(self.fsync and reached.fsync, min(self.replicas, reached.replicas))

    def __str__(self) -> str:
        return "fsync" if self.fsync else f"replicated={self.replicas}" if self.replicas else "primary"


PRIMARY = Durability()
"""The primary has it: what Redis gives with every reply."""
