"""The web app over real HTTP, on loopback, and a reader of its streams."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import uvicorn

from tests.support.servers import eventually

__all__ = ["Frame", "asked", "fits", "frames_of", "serving"]


class Frame(NamedTuple):
    """A server-sent event, as a browser dispatches it."""

    name: str
    data: Any
    last_id: str


@contextmanager
def serving(app: Any, port: int = 0, host: str = "127.0.0.1") -> Iterator[httpx.Client]:
    """Serve an app on a port of loopback, 0: a free one, while this is entered; gives a client of it."""
    listener = socket.create_server((host, port))
    config = uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    eventually(lambda: server.started)
    try:
        url = f"http://{host}:{listener.getsockname()[1]}"
        # it has no use for certificates, and to load them takes it longer than a test
        with httpx.Client(base_url=url, timeout=30, verify=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


async def asked(app: Any, *paths: str) -> list[httpx.Response]:
    """What an app answers, without a server: one path after the other."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://runs") as client:
        return [await client.get(path) for path in paths]


def frames_of(response: httpx.Response) -> Iterator[Frame]:
    """The events of a stream, by the rules of the standard for EventSource."""
    name, last_id = "message", ""
    data: list[str] = []
    for line in response.iter_lines():
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Frame(name, json.loads("\n".join(data)), last_id)
            name, data = "message", []
        elif field == "event":
            name = value
        elif field == "id":
            last_id = value
        elif field == "data":
            data.append(value)


_KINDS: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}


def fits(value: Any, schema: dict[str, Any], named: dict[str, Any]) -> bool:
    """Whether a value is what a schema of an OpenAPI document says, as far as ours say anything."""
    if "$ref" in schema:
        return fits(value, named[schema["$ref"].rpartition("/")[2]], named)
    if "anyOf" in schema:
        return any(fits(value, one, named) for one in schema["anyOf"])
    if not schema:
        return True
    if not isinstance(value, _KINDS[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean"):
        return False
    if isinstance(value, list):
        return all(fits(one, schema["items"], named) for one in value)
    if isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
        missing = set(schema.get("required", ())) - set(value)
        return not missing and all(fits(one, known.get(key, rest), named) for key, one in value.items())
    return True
