"""What a test of the command line over a real server needs."""

from __future__ import annotations

import pytest

from runstream import ConfigurationError
from runstream.stores.redis.connection.server_binary import find_server_program


def has_server() -> bool:
    try:
        find_server_program()
    except ConfigurationError:
        return False
    return True


needs_server = pytest.mark.skipif(not has_server(), reason="needs a server program")
