"""What meta notes of what a run and people say to each other: its fields ``questions`` and ``cancel``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runstream.model.questions import Notice, Question, notice_of, questions_after
from runstream.model.state import ENDED_STATUSES, STATUS_BY_KIND

__all__ = ["PeopleNotes", "parse_questions", "questions_text"]

_QUESTION = re.compile(r"([0-9a-f]*) ([0-9a-f]*) (\d+) (\d+) ([0-9a-f]*)")


def parse_questions(noted: bytes | None) -> tuple[Question, ...]:
    """Parse meta's field ``questions``; what does not read of it is none."""
    return tuple(
        Question(_text(question), _text(lane), _text(words), int(offset), int(answer) or None)
        for lane, question, offset, answer, words in _QUESTION.findall((noted or b"").decode(errors="replace"))
    )


def _text(words: str) -> str:
    return bytes.fromhex(words).decode(errors="surrogatepass")


def questions_text(questions: Sequence[Question]) -> str:
    """The same field for these questions; '' for none."""
    return ",".join(
        f"{_hex(one.lane_id)} {_hex(one.question_id)} {one.offset} {one.answer_offset or 0} {_hex(one.text)}"
        for one in questions
    )


def _hex(text: str) -> str:
    return text.encode(errors="surrogatepass").hex()


@dataclass(slots=True)
class PeopleNotes:
    """What the events of a history say between the run and people, gathered in order."""

    _notices: list[tuple[int, Notice]] = field(default_factory=list)
    _cancel: str | None = None
    _has_ended: bool = False

    def add(self, offset: int, fields: Mapping[str, Any]) -> None:
        """Add the next event, by its fields."""
        kind = fields.get("kind", "")
        notice = notice_of(kind, fields.get("lane_id", "main"), fields.get("payload"))
        if notice is not None:
            self._notices.append((offset, notice))
            self._cancel = f"{offset} {notice.text}" if notice.says == "cancel" else self._cancel
        elif kind in STATUS_BY_KIND:
            is_end = STATUS_BY_KIND[kind] in ENDED_STATUSES
            if self._has_ended and not is_end:
                self._cancel = None  # it was opened again
            self._has_ended = is_end

    @property
    def asks(self) -> bool:
        """Whether one of the events asks something."""
        return any(notice.says == "ask" for _, notice in self._notices)

    def fields(self, former: bytes | None = None) -> dict[str, str]:
        """The fields of meta after these events; ``former`` is its field ``questions`` from before."""
        questions = questions_after(parse_questions(former), self._notices) if self._notices else ()
        return {
            **({"questions": questions_text(questions)} if questions else {}),
            **({} if self._cancel is None else {"cancel": self._cancel}),
        }
