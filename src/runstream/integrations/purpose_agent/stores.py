"""Stores that give purpose-agent's own events and states, in place of its own stores.

purpose-agent is the user's to install, and imported when a store is opened.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from runstream.connect import ARCHIVE_SCHEMES
from runstream.connect import connect as connect_store
from runstream.connect import connect_async as connect_store_async
from runstream.integrations.purpose_agent.checks import purpose_agent
from runstream.model.awaitable import Opening
from runstream.model.errors import ConfigurationError
from runstream.stores.async_facade import AsyncStore
from runstream.stores.facade import Store
from runstream.stores.lifecycle import reopen_with
from runstream.stores.options import StoreOptions
from runstream.stores.tiered.checkpointer import with_archive_to_come, with_archive_to_come_async
from runstream.stores.tiered.late_archive import ArchiveToCome
from runstream.stores.urls import archive_beside, check_is_text, path_in, with_path

if TYPE_CHECKING:
    from purpose_agent.runtime import PAEvent, RunState

__all__ = ["connect", "connect_async"]

_OF_ARCHIVE = ("event_type", "state_type", "fallback", "upcasts")


def connect(
    url: str | None = None, *, archive: str | None = None, **options: Unpack[StoreOptions]
) -> Store[PAEvent, RunState]:
    """Open the store that a URL names, for purpose-agent's own ``PAEvent`` and ``RunState``.

    It has the four methods of purpose-agent's ``Checkpointer``, and all others of a store here. The kinds of
    events are members of its ``EventKind``; one that it does not know has ``value`` and ``name`` all the same. A
    state comes back with all of its fields, the times of nodes and every action among them.

    Args:
        url: As :func:`runstream.connect` takes it; None: the one in the environment variable ``RUNSTREAM_URL``.
        archive: The ``sqlite:`` or ``jsonl:`` URL of the archive that a drain worker writes from that server. It
            is read from the moment when a worker has made it, and never made here. None: for ``embedded:DIR``, the
            file ``archive.db`` in DIR, or ``archive-NAMESPACE.db`` if it names a namespace; else there is none.
        **options: As :func:`runstream.connect` takes them. ``fallback`` is ``str`` if it is not given, as with
            purpose-agent's own stores: what cannot be stored becomes its text. ``plain_names`` is True: its own
            ``JSONLCheckpointer`` finds what is begun here.

    Returns:
        The store.

    Raises:
        ConfigurationError: purpose-agent is not installed; a URL, an option or the server does not fit.
        StoreUnavailable: The server cannot be reached.
    """
    url, archive, given = _resolved(url, archive, options)
    hot: Store[Any, Any] = connect_store(url, **given)
    if archive is None:
        return hot
    try:
        return _with_archive(hot, archive, given)
    except BaseException:
        hot.close()
        raise


def connect_async(
    url: str | None = None, *, archive: str | None = None, **options: Unpack[StoreOptions]
) -> Opening[AsyncStore[PAEvent, RunState]]:
    """Open the store that a URL names, for asyncio and purpose-agent's own ``PAEvent`` and ``RunState``.

    Its methods are those of the store that ``connect`` opens, awaited.

    Args:
        url: As :func:`runstream.connect_async` takes it; None: the one in ``RUNSTREAM_URL``.
        archive: As ``connect`` takes it.
        **options: As ``connect`` takes them.

    Returns:
        What is awaited, or entered with ``async with``, to have the store.

    Raises:
        ConfigurationError: purpose-agent is not installed; a URL, an option or the server does not fit.
        StoreUnavailable: The server cannot be reached.
    """
    return Opening(partial(_open_async, *_resolved(url, archive, options)))


async def _open_async(url: str, archive: str | None, given: dict[str, Any]) -> AsyncStore[Any, Any]:
    hot: AsyncStore[Any, Any] = await connect_store_async(url, **given)
    if archive is None:
        return hot
    try:
        return _with_archive_async(hot, archive, given)
    except BaseException:
        await hot.close()
        raise


def _resolved(
    url: str | None, archive: str | None, options: StoreOptions
) -> tuple[str, str | None, dict[str, Any]]:
    """The URLs of the store and its archive, and the options with purpose-agent's types."""
    theirs = purpose_agent("runtime")
    given = {"event_type": theirs.PAEvent, "state_type": theirs.RunState, "fallback": str, **options}
    url = os.environ.get("RUNSTREAM_URL", "") if url is None else url
    check_is_text(url)
    if url.startswith("jsonl:"):
        given = {"plain_names": True, **given}  # as its own writer names them, and its own reader looks for them
    check_is_text(archive)
    if archive is None:
        return url, archive_beside(url, given.get("namespace")), given
    scheme, _, rest = archive.partition(":")
    if scheme not in ARCHIVE_SCHEMES:
        raise ConfigurationError("an archive is sqlite:PATH or jsonl:DIR, the one that a drain worker writes")
    name, _, query = rest.partition("?")
    return url, with_path(scheme, path_in(scheme, name), query), given


def _with_archive(hot: Any, archive: str, given: dict[str, Any]) -> Store[Any, Any]:
    store: Store[Any, Any] = with_archive_to_come(hot, _archive_to_come(archive, given))
    return reopen_with(store, _with_archive, hot, archive, given)  # the store that is written to, by its URL


def _with_archive_async(hot: Any, archive: str, given: dict[str, Any]) -> AsyncStore[Any, Any]:
    store: AsyncStore[Any, Any] = with_archive_to_come_async(hot, _archive_to_come(archive, given))
    return reopen_with(store, _with_archive_async, hot, archive, given)


def _archive_to_come(url: str, given: dict[str, Any]) -> ArchiveToCome[Any, Any]:
    open_it: Any = partial(connect_store, url, **{name: given[name] for name in _OF_ARCHIVE if name in given})
    return ArchiveToCome(url, open_it)
