"""``runstream acl`` prints rules. What they allow and deny is in tests/stores/redis/test_access.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from runstream.stores.redis.access import Role
from tests.support.commands import run
from tests.support.servers import Server, needs_server

PAGE = Path(__file__).parents[2] / "docs/rights.md"


def test_the_page_shows_what_is_printed() -> None:
    """And has a row for each role."""
    text = PAGE.read_text("utf-8")
    (shown,) = re.findall(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert run("acl", "--role", "reader", "--namespace", "dev").out == shown
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [*Role]


@needs_server
def test_an_aclfile_and_json_say_the_same_as_the_command(server: Server) -> None:
    """To the server, which tells a user's rights in words of its own."""
    raw: Any = server.raw
    version = ("--server-version", {"redis62": "6.2.14", "redis70": "7"}.get(server.name, "9.1.0"))
    try:
        for role in Role:
            raw.execute_command(*run("acl", "--role", role, "--user", "one", *version).out.split())
            words = run("acl", "--role", role, "--user", "two", "--aclfile", *version).out.split()
            assert words[:2] == ["user", "two"]
            raw.execute_command("ACL", "SETUSER", *words[1:])
            document = run("acl", "--role", role, "--user", "three", "--json", *version).document
            raw.execute_command("ACL", "SETUSER", document["user"], *document["rule"].split())
            one, two, three = (raw.acl_getuser(name) for name in ("one", "two", "three"))
            assert one == two == three
            assert "on" in one["flags"]
            assert not one["passwords"], "nobody can log in yet"
            assert not one["channels"]
            assert len(document["commands"]) == document["rule"].count(" +")
            assert len(document["keys"]) == document["rule"].count("~")
    finally:
        raw.acl_deluser("one", "two", "three")


@needs_server
def test_a_rule_keeps_the_password_and_takes_away_the_rest(server: Server) -> None:
    raw: Any = server.raw
    raw.execute_command("ACL", "SETUSER", "one", "on", ">secret", "~*", "&*", "+@all")
    try:
        before = raw.acl_getuser("one")["passwords"]
        raw.execute_command(
            *run("acl", "--role", "reader", "--user", "one", "--server-version", "6.2").out.split()
        )
        now = raw.acl_getuser("one")
        assert now["passwords"] == before != []
        assert ("+@all" in str(now), "'*'" in str(now)) == (False, False)
    finally:
        raw.acl_deluser("one")


def test_a_durability_has_its_commands() -> None:
    """As far as the server knows them."""

    def durable(level: str, version: str) -> set[str]:
        given = run("acl", "--role", "agent", "--durability", level, "--server-version", version).out.split()
        return {word for word in given if word.startswith(("+wait", "+config"))}

    assert durable("primary", "8.0") == set()
    assert durable("replicated=2", "7.0") == {"+wait"}
    assert durable("replicated=2", "7.2") == {"+wait", "+waitaof"}
    assert durable("fsync", "6.2") == {"+config|get"}
    assert durable("fsync", "8.0") == {"+config|get", "+waitaof"}


@pytest.mark.parametrize(
    "wrong",
    [
        ("--role", "admin"),
        ("--role", "agent", "--namespace", "a*"),
        ("--role", "agent", "--user", "a b"),
        ("--role", "agent", "--server-version", "6.0"),
        ("--role", "agent", "--server-version", "new"),
        ("--role", "agent", "--durability", "much"),
        (),
    ],
)
def test_what_is_no_rule_is_refused(wrong: tuple[str, ...]) -> None:
    said = run("acl", *wrong)
    assert (said.code, said.out) == (2, "")
