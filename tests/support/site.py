"""What the site of the documentation has beside the pages of ``docs/``: hooks that mkdocs calls (``mkdocs.yml``).

The README, the changelog, CONTRIBUTING and the examples become pages of it; the pages about the commands and the
interface are made; a link to a file that is in the repository and not on the site becomes its name; ``llms.txt``
lists all pages.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from pathlib import Path
from typing import Any

import runstream
from tests.support.made_pages import commands_page

ROOT = Path(__file__).parents[2]

FROM_ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples.md",
}
"""The pages of the repository that the site has too, and their names there."""

KINDS = {
    "Open a store": ["connect", "connect_async", "Opening"],
    "Stores": ["Store", "AsyncStore", "SnapshotStore", "AsyncSnapshotStore"],
    "Kinds of stores": [
        "RedisCheckpointer", "AsyncRedisCheckpointer", "TieredCheckpointer", "AsyncTieredCheckpointer",
        "SQLiteCheckpointer", "JSONLCheckpointer", "InMemoryCheckpointer",
    ],
    "Runs and leases": ["Run", "AsyncRun", "Emission", "DeltaBuffer", "Question", "Lease", "AsyncLease"],
    "The drain worker": ["DrainWorker", "DrainReport", "Sink"],
    "Protocols": ["Checkpointer", "RunStore", "AsyncRunStore", "Leased"],
}  # fmt: skip
"""The parts of the page about the interface; what is in none of them, and no error, is in a last one."""

_SAME = {"connect": "connect.connect"}  # of the module that has its name
_OWN = "    options:\n      inherited_members: false\n"  # a store's methods are told once
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
_LOADED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>")
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):<code>~?(?:[\w.]+\.)?(\w+)</code>")


def api_page() -> str:
    """The directives by which mkdocstrings tells all that is importable from ``runstream``."""
    errors = {name for name in runstream.__all__ if _is_error(getattr(runstream, name))}
    listed = {name for names in KINDS.values() for name in names}
    others = [name for name in runstream.__all__ if name not in errors | listed]
    parts = ["# Python\n\nAll of this is importable from `runstream`. What an error means: [Errors](errors.md).\n"]
    for title, names in {**KINDS, "Values": others, "Errors": sorted(errors)}.items():
        options = _OWN if title == "Kinds of stores" else ""
        parts.append(f"## {title}\n")
        parts += [f"::: runstream.{_SAME.get(name, name)}\n{options}" for name in names]
    return "\n".join(parts)


def examples_page() -> str:
    """The table of the examples, and each of them."""
    parts = [(ROOT / "examples/README.md").read_text(encoding="utf-8")]
    for path in sorted((ROOT / "examples").glob("*.py")):
        parts += [f"## {path.name}", f"```python\n{path.read_text(encoding='utf-8')}```"]
    return "\n\n".join(parts) + "\n"


def with_links_of_the_site(text: str, source: str) -> str:
    """A page whose links lead to what the site has; a link to another file of the repository becomes its name.

    Args:
        text: The page, in Markdown.
        source: Where it is in the repository.

    Returns:
        The page as it is on the site.
    """
    page = FROM_ELSEWHERE.get(source, source.removeprefix("docs/"))

    def replaced(link: re.Match[str]) -> str:
        image, shown, file, anchor = link.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), file))
        if source == "examples/README.md" and target.endswith(".py"):
            return f"[{shown}](#{posixpath.basename(target).replace('.', '')})"
        there = FROM_ELSEWHERE.get(target, target.removeprefix("docs/") if target.startswith("docs/") else "")
        if not there or there.endswith(".pml") or (ROOT / target).is_dir():
            return shown
        return f"{image}[{shown}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{anchor or ''})"

    return "".join(
        part if part.startswith("```") else _LINK.sub(replaced, part)
        for part in re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    )


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages that are not in ``docs/``."""
    from mkdocs.structure.files import File  # noqa: PLC0415  the tests have no mkdocs

    made = {name: (ROOT / source).read_text(encoding="utf-8") for source, name in FROM_ELSEWHERE.items()}
    made |= {"examples.md": examples_page(), "command-line.md": commands_page(), "api.md": api_page()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Let its links lead to what the site has."""
    sources = {name: source for source, name in FROM_ELSEWHERE.items()}
    return with_links_of_the_site(markdown, sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))


def on_page_content(html: str, **_: Any) -> str:
    """Show the roles of docstrings as names."""
    return _ROLE.sub(r"<code>\1</code>", html).replace("::</p>", ":</p>")


def on_nav(nav: Any, **_: Any) -> None:
    """Remember the order of the pages for ``llms.txt``."""
    _PAGES[:] = nav.pages


def on_post_build(*, config: Any) -> None:
    """Write ``llms.txt``: what each page is about, and where it is.

    Raises:
        PluginError: A page loads something from elsewhere.
    """
    from mkdocs.exceptions import PluginError  # noqa: PLC0415  the tests have no mkdocs

    for page in Path(config.site_dir).rglob("*.html"):
        if loaded := _LOADED.search(page.read_text(encoding="utf-8")):
            raise PluginError(f"{page.name} loads from elsewhere: {loaded[0]}")
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    lines += [f"- [{page.title}]({page.file.dest_uri}): {first_sentence(page.markdown)}" for page in _PAGES]
    Path(config.site_dir, "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


_PAGES: list[Any] = []


def first_sentence(markdown: str) -> str:
    """The first sentence of a page, as plain text."""
    body = re.sub(r"^#[^\n]*$|^```.*?^```$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    text = " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", body.strip().partition("\n\n")[0]).split())
    return re.split(r"(?<=[.:]) ", text)[0].rstrip(":")


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, runstream.RunstreamError)
