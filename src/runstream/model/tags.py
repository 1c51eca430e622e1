"""Tags: names and values on a run, by which runs are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from runstream.model.errors import ConfigurationError, EncodingError
from runstream.model.identifiers import is_utf8, shown

__all__ = ["MAX_TAGS", "MAX_TAG_BYTES", "NO_TAGS", "TagChanges", "TagSet", "check_tags", "too_many_tags"]

MAX_TAG_BYTES = 256
"""The longest name of a tag, and its longest value, in bytes of UTF-8."""
MAX_TAGS = 10_000
"""How many tags a run may have."""

TagChanges: TypeAlias = Mapping[str, str | None]
"""What an append changes of a run's tags: the value of each name, or None to remove it."""


@dataclass(frozen=True, slots=True)
class TagSet:
    """All tags of a run, as one append has left them.

    Attributes:
        version: ``NUMBER-TOKEN``. The number only rises, so that the later of two is known; as after a failover a
            number can be given out twice, a token is not. '' for a run that never had a tag.
        values: The tags' values by name.
    """

    version: str = ""
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """How often the tags were changed, or when: it only rises."""
        return int(self.version.partition("-")[0] or 0)

    def follows(self, former: TagSet, seen: str | None = None) -> bool:
        """Whether these are to replace the former ones of the run: they are others, and no earlier ones.

        Args:
            former: The tags that are there.
            seen: The version that was there before these were loaded, if that is known. Where it is there still,
                these are later, whatever their number: the server has lost those.
        """
        return self.version != former.version and (self.number >= former.number or former.version == seen)

    def changed(self, changes: TagChanges, token: str) -> TagSet:
        """The tags after a change; the very same where that changes nothing.

        Args:
            changes: The new value of each name; None removes it.
            token: A random name for the tags as they are then.
        """
        values = {**self.values, **changes}
        kept = {name: value for name, value in values.items() if value is not None}
        return self if kept == self.values else TagSet(f"{self.number + 1}-{token}", kept)


NO_TAGS = TagSet()


def check_tags(tags: Any, *, removing: bool = True) -> dict[str, Any]:
    """A copy of the tags that a caller gave; none for None.

    Args:
        tags: The value of each tag by name.
        removing: Whether None may stand for a tag that is to be removed.

    Returns:
        The same tags.

    Raises:
        ConfigurationError: These are no names with values.
        EncodingError: A name or a value is no plain string of UTF-8, or too long; or there are too many.
    """
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        raise ConfigurationError(f"tags={shown(tags)}: pass names with values, as in {{'user': '42'}}, or None")
    found = dict(tags)
    for name, value in found.items():
        _check_text("the name of a tag", name, 1)
        if value is not None or not removing:
            _check_text(f"the value of tag {name!r:.80}", value, 0)
    if len(found) > MAX_TAGS:
        raise EncodingError(f"{len(found)} tags: a run has at most {MAX_TAGS}", path="tags")
    return found


def too_many_tags(run_id: str, count: int) -> EncodingError:
    """The error for a run that would have more tags than it may.

    Args:
        run_id: The run.
        count: How many it would have.
    """
    return EncodingError(
        f"run {run_id!r} would have {count} tags; at most {MAX_TAGS} are allowed: remove some (value None)",
        path="tags",
    )


def _check_text(what: str, text: Any, least: int) -> None:
    if type(text) is not str:
        raise EncodingError(f"{what} is a plain string, not {type(text).__name__} ({shown(text)})", path="tags")
    if not is_utf8(text):
        raise EncodingError(f"{what} has characters that UTF-8 cannot carry: {shown(text)}", path="tags")
    size = len(text.encode())
    if not least <= size <= MAX_TAG_BYTES:
        raise EncodingError(
            f"{what} has {size} bytes of UTF-8; {least} to {MAX_TAG_BYTES} are allowed", path="tags"
        )
