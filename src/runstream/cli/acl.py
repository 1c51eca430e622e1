"""``runstream acl``: print the ACL rule that gives a user of the server the rights of a role, and no more."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from runstream.cli.support.options import AsJson
from runstream.cli.support.output import emit_json, say
from runstream.model.durability import Durability
from runstream.stores.redis.access import Role, ServerVersion, acl_rule, commands_of_role, keys_of_role

__all__ = ["EPILOG", "acl"]

EPILOG = """Examples:

runstream acl --role agent

runstream acl --role worker --namespace dev --server-version 6.2 | redis-cli

runstream acl --role reader --aclfile >> /etc/redis/users.acl"""

_OLDEST: ServerVersion = (6, 2)


def acl(
    role: Annotated[Role, typer.Option("--role", help="Whose rights.", show_default=False)],
    namespace: Annotated[
        str, typer.Option("--namespace", help="Of this namespace, and of no other.")
    ] = "runstream",
    user: Annotated[
        str | None,
        typer.Option("--user", help="The user's name at the server.", show_default="NAMESPACE-ROLE"),
    ] = None,
    server_version: Annotated[
        str,
        typer.Option(
            "--server-version",
            metavar="VERSION",
            help="The oldest server, Redis or Valkey, that the rule is for; one from 7.0 on knows read-only keys.",
        ),
    ] = "7.0",
    durability: Annotated[
        str,
        typer.Option(
            "--durability",
            metavar="LEVEL",
            help="The highest that the user's stores ask for: primary, fsync or replicated=N.",
        ),
    ] = "primary",
    as_aclfile: Annotated[
        bool, typer.Option("--aclfile", help="Print a line of the server's aclfile, not a command.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the ACL rule that gives a user of the server the rights of a role in a namespace, and no others.

    A reader reads and follows. An agent also writes, forks and erases. A worker is for `drain` and `status`. An
    operator does all of that, and deletes, restores, resolves, repairs and trims.

    The rule takes away what else the user was allowed, and leaves passwords as they are. A user who is new has
    none, and cannot log in: give it one (ACL SETUSER NAME >PASSWORD).
    """
    server = _version(server_version)
    name = f"{namespace}-{role}" if user is None else user
    if not re.fullmatch(r"[^\s\0]+", name):
        raise typer.BadParameter("a user's name has no spaces", param_hint="--user")
    level = Durability.parse(durability)
    rule = acl_rule(role, namespace, server=server, durability=level)
    if as_json:
        emit_json(
            {
                "user": name,
                "role": role.value,
                "namespace": namespace,
                "server_version": ".".join(map(str, server)),
                "commands": sorted(commands_of_role(role, server, level)),
                "keys": [pattern._asdict() for pattern in keys_of_role(role, namespace)],
                "rule": " ".join(rule),
            }
        )
        return
    sys.stdout.write(" ".join(("user" if as_aclfile else "ACL SETUSER", name, *rule)) + "\n")
    if sys.stdout.isatty():
        say(f"the rule gives no password; a new user needs one: ACL SETUSER {name} >PASSWORD")


def _version(text: str) -> ServerVersion:
    """The first two numbers of a version. Raises BadParameter for what is none, or too old."""
    found = re.fullmatch(r"(\d+)(?:\.(\d+))?(?:\.\d+)*", text)
    version = (int(found[1]), int(found[2] or 0)) if found else None
    if version is None or version < _OLDEST:
        raise typer.BadParameter("pass the version of a server, 6.2 or later", param_hint="--server-version")
    return version
