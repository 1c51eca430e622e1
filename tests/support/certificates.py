"""Certificates for tests: an authority, and what it signs, made by the ``openssl`` of the machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.servers import PROGRAMS

__all__ = ["Authority", "Pair", "needs_tls"]

needs_tls = pytest.mark.skipif(
    "redis70" not in PROGRAMS or not shutil.which("openssl"), reason="needs a server with TLS, and openssl"
)
"""Debian's server has TLS; those of the wheels have none."""

# Python from 3.13 on wants it of whatever may sign, as all that openssl makes may
_SIGNS = ("-addext", "keyUsage=critical,digitalSignature,keyCertSign")
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


class Pair(NamedTuple):
    """The files of a certificate and of its key."""

    certificate: str
    key: str

    @property
    def query(self) -> str:
        """By which options of a URL a client has them."""
        return f"ssl_certfile={self.certificate}&ssl_keyfile={self.key}"


class Authority:
    """An authority of its own.

    Args:
        directory: Where its files, and those of what it signs, are made.
        name: Its name.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._own = self._request(name, "-x509", *_SIGNS)
        self.certificate = self._own.certificate

    def sign(self, name: str, *, host: str = "localhost", password: str = "") -> Pair:
        """Make a certificate for a host, or for a client; the key has a password if one is given."""
        signed = ("-x509", "-CA", self._own.certificate, "-CAkey", self._own.key, *_SIGNS)
        return self._request(name, *signed, "-addext", f"subjectAltName=DNS:{host}", password=password)

    def serving(self, pair: Pair) -> list[str]:
        """The options of a server that has this certificate, and takes clients that have one of this authority."""
        files = {"cert-file": pair.certificate, "key-file": pair.key, "ca-cert-file": self.certificate}
        options = {**files, "auth-clients": "yes", "replication": "yes"}
        return [word for name, value in options.items() for word in (f"--tls-{name}", value)]

    def _request(self, name: str, *options: str, password: str = "") -> Pair:
        made = Pair(str(self._directory / f"{name}.pem"), str(self._directory / f"{name}.key"))
        secret = ("-passout", f"pass:{password}") if password else ("-nodes",)
        files = ("-keyout", made.key, "-out", made.certificate, "-days", "2", "-subj", f"/CN={name}")
        command = ["openssl", "req", *_KEY, *secret, *files, *options]
        subprocess.run(command, check=True, capture_output=True)
        return made
