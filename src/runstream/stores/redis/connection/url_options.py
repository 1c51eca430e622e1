"""The options of redis-py that may stand in a URL, each with the texts that it takes.

redis-py itself takes any name there, and finds out at the first connection what it cannot use, if at all.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from runstream.model.errors import ConfigurationError

__all__ = ["addresses_in", "check_url_options"]

_FLAGS = frozenset({"true", "t", "yes", "y", "1", "false", "f", "no", "n", "0"})


def _seconds(text: str) -> bool:
    return 0 < float(text) < math.inf


def _is_cipher_list(text: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(text)
    except ssl.SSLError:
        return False
    return True


# whether a text is taken (a ValueError says that it is not), and what to pass
_Reads = tuple[Callable[[str], object], str]
_TEXT: _Reads = (bool, "pass a text")
_FLAG: _Reads = (lambda text: text.lower() in _FLAGS, "pass true or false")
_SECONDS: _Reads = (_seconds, "pass seconds, more than 0")
_COUNT: _Reads = (lambda text: int(text) > 0, "pass a whole number, more than 0")
_FILE: _Reads = (lambda text: Path(text).is_file(), "pass the path of a file that is there")

_EVERYWHERE: Mapping[str, _Reads] = {
    "db": (lambda text: int(text) >= 0, "pass a whole number"),
    "username": _TEXT,
    "password": _TEXT,
    "client_name": _TEXT,
    "protocol": (lambda text: text in ("2", "3"), "pass 2 or 3"),
    "socket_timeout": _SECONDS,
    "socket_connect_timeout": _SECONDS,
    "socket_read_size": _COUNT,
    "health_check_interval": (lambda text: int(text) >= 0, "pass whole seconds; 0 for no health checks"),
    "retry_on_timeout": _FLAG,
    "max_connections": _COUNT,
    "decode_responses": _FLAG,
}
_TCP: Mapping[str, _Reads] = {"socket_keepalive": _FLAG}
_TLS: Mapping[str, _Reads] = {
    "ssl_cert_reqs": (lambda text: text in ("none", "optional", "required"), "pass none, optional or required"),
    "ssl_check_hostname": _FLAG,
    "ssl_ca_certs": _FILE,
    "ssl_ca_path": (lambda text: Path(text).is_dir(), "pass the path of a directory that is there"),
    "ssl_ca_data": _TEXT,
    "ssl_certfile": _FILE,
    "ssl_keyfile": _FILE,
    "ssl_password": _TEXT,
    "ssl_ciphers": (_is_cipher_list, "pass a list of ciphers that OpenSSL knows"),
    "ssl_min_version": (lambda text: ssl.TLSVersion(int(text)), "pass 771 for TLS 1.2, 772 for TLS 1.3"),
}
_OPTIONS = {
    "redis": {**_EVERYWHERE, **_TCP},
    "rediss": {**_EVERYWHERE, **_TCP, **_TLS},
    "unix": _EVERYWHERE,
}


def check_url_options(url: str) -> None:
    """Check what the path and the query of a ``redis://``, ``rediss://`` or ``unix://`` URL say.

    Raises:
        ConfigurationError: An option that there is not, or a value that does not read; it is not shown, as it may
            be secret.
    """
    parts = urlsplit(url)
    options = _OPTIONS[parts.scheme]
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in options and "@" in name + text:  # it is not shown: it may be the end of a password
            raise ConfigurationError(
                f"{parts.scheme}: has no option with an @ in it, as stands behind the ? of this URL; in a password"
                " write ? as %3F"
            )
        if name not in options:
            why = " without TLS (write rediss://)" if name in _TLS else ""
            raise ConfigurationError(
                f"{parts.scheme}: has no option {name!r:.80} of redis-py{why}; it has {', '.join(options)};"
                " what no text can say is set in a client of your own, which a RedisCheckpointer takes"
            )
        takes, what_to_pass = options[name]
        try:
            is_taken = bool(takes(text))
        except ValueError:
            is_taken = False
        if not is_taken:
            raise ConfigurationError(f"option {name} in the URL does not read: {what_to_pass}")
    if parts.scheme == "rediss":
        _check_certificates(dict(parse_qsl(parts.query)))
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not database.isdecimal():
        raise ConfigurationError(
            f"after the host a {parts.scheme}: URL has the number of a database, or nothing; pass a whole number"
        )


def addresses_in(hosts: str, port: int) -> tuple[tuple[str, int], ...] | None:
    """The servers that ``HOST:PORT,HOST:PORT`` names; without one, at this port. None: one does not read."""
    found = []
    for text in hosts.split(","):
        try:
            parts = urlsplit(f"//{text}")
            found.append((parts.hostname or "", parts.port or port))
        except ValueError:
            return None
    return tuple(found) if all(host for host, _ in found) else None


def _check_certificates(options: Mapping[str, str]) -> None:
    """Raise ConfigurationError for certificates that cannot be used. OpenSSL would ask a person for a password."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authorities, own, key = map(options.get, ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"))
    try:
        if authorities is not None:
            context.load_verify_locations(authorities)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"option ssl_ca_certs in the URL: no certificates in PEM ({error})") from error
    if own is None:
        if key is not None:
            raise ConfigurationError("option ssl_keyfile in the URL is the key of ssl_certfile: pass that, too")
        return
    try:
        context.load_cert_chain(own, key, options.get("ssl_password", ""))
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(
            "options ssl_certfile and ssl_keyfile in the URL: no certificate in PEM with its own key, or a key"
            f" that ssl_password does not open ({error})"
        ) from error
