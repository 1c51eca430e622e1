"""A run's id in a path: unpadded base64url (RFC 4648, 5) of its UTF-8, so that no server takes it apart."""

from __future__ import annotations

import base64
import binascii

from runstream.model.errors import InvalidRunId
from runstream.model.identifiers import check_run_id

__all__ = ["path_id", "run_id_in"]


def path_id(run_id: str) -> str:
    """A run's id as it stands in a path."""
    return base64.urlsafe_b64encode(run_id.encode()).rstrip(b"=").decode()


def run_id_in(text: str) -> str:
    """The run that a part of a path names.

    Raises:
        InvalidRunId: It names none: each run has one name in a path, and this is nobody's.
    """
    try:
        run_id = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        run_id = ""
    check_run_id(run_id)
    if path_id(run_id) != text:
        raise InvalidRunId("a run's id stands in a path as unpadded base64url of its UTF-8")
    return run_id
