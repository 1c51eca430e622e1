"""What names one snapshot or one lease: numbers can be given out twice after a failover, tokens cannot."""

from __future__ import annotations

import secrets

__all__ = ["random_token"]


def random_token() -> str:
    """A token that nobody else has."""
    return secrets.token_urlsafe(12)
