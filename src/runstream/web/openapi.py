"""The OpenAPI document (3.1) of the app: made of its endpoints and of the types of their documents."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from runstream.web.endpoints import Endpoint
from runstream.web.frames import EVENT_STREAM
from runstream.web.shapes import Problem

__all__ = ["openapi"]

_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}


def openapi(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The document."""
    schemas = _Schemas()
    problem = {"application/problem+json": {"schema": schemas.of(Problem)}}
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints:
        operation: dict[str, Any] = {
            "operationId": getattr(one.handler, "__name__", one.path),
            "summary": (inspect.getdoc(one.handler) or "").partition("\n")[0],
            "parameters": _parameters(one),
            "responses": {
                "200": {"description": "The answer.", "content": _content(one, schemas)},
                "default": {"description": "What is wrong.", "content": problem},
            },
        }
        if one.media == EVENT_STREAM:
            operation["responses"]["204"] = {"description": "All was given, and no more comes: do not reconnect."}
        if one.takes is not None:
            content = {"application/json": {"schema": schemas.of(one.takes)}}
            operation["requestBody"] = {"required": True, "content": content}
        paths.setdefault(one.path, {})[one.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "runstream", "version": version("runstream")},
        "paths": paths,
        "components": {"schemas": schemas.named},
    }


def _content(one: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    schema = {"type": "string"} if one.answers is None else schemas.of(one.answers)
    return {one.media: {"schema": schema}}


def _parameters(one: Endpoint) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if "{id}" in one.path:
        about = "The run's id: unpadded base64url of its UTF-8."
        found.append({"name": "id", "in": "path", "required": True, "description": about, "schema": _PLAIN[str]})
    for each in one.parameters:
        schema: dict[str, Any] = {"type": each.kind}
        if each.is_many:
            schema = {"type": "array", "items": schema}
        found.append({"name": each.name, "in": "query", "description": each.about, "schema": schema})
    if one.media == EVENT_STREAM:
        about = "The id of the last event that was received: the stream goes on after it."
        found.append({"name": "Last-Event-ID", "in": "header", "description": about, "schema": _PLAIN[str]})
    return found


class _Schemas:
    """JSON schemas of types: a TypedDict has a name, under which others refer to it."""

    def __init__(self) -> None:
        self.named: dict[str, Any] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in {types.UnionType, typing.Union}:
            return {"anyOf": [self.of(one) for one in arguments]}
        if origin is list:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if typing.is_typeddict(kind):
            return self._of_typed_dict(kind)
        return _PLAIN[kind]

    def _of_typed_dict(self, kind: Any) -> dict[str, Any]:
        name = kind.__name__
        if name not in self.named:
            self.named[name] = {}  # it may refer to itself
            # its own __required_keys__ has all of them where annotations are texts
            marked = typing.get_type_hints(kind, include_extras=True)
            required = [key for key, one in marked.items() if typing.get_origin(one) is not typing.NotRequired]
            self.named[name] = {
                "type": "object",
                "description": inspect.getdoc(kind),
                "properties": {key: self.of(one) for key, one in typing.get_type_hints(kind).items()},
                "required": sorted(required),
            }
        return {"$ref": f"#/components/schemas/{name}"}
