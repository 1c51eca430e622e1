"""What a fork does to the objects of a process: all state that crosses one is looked after here, and nowhere else.

A forked child has a copy of every object and one thread, the one that forked. A lock that another thread held
stays locked there for ever, what that thread was changing stays half changed, and a connection is the parent's:
whoever reads from it gets the parent's replies. So an object does one of two things:

- it *starts anew* in the child: new locks, no connections, nothing of the parent's that is still under way
  (:func:`starts_anew`);
- it is *held over the fork*: its lock is taken before and given back after, in parent and child, so that the
  child's copy is whole (:func:`held_over_fork`). For stores whose data lies in the process itself, and for files
  that must not be open.

Objects are known weakly, and none of this costs a call anything: the operating system's process id is never asked.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Protocol

__all__ = ["HeldLock", "HeldOverFork", "StartsAnew", "held_over_fork", "starts_anew", "was_held"]


class StartsAnew(Protocol):
    """An object that begins anew in a forked child."""

    def _start_anew(self) -> None:
        """Begin anew, in a child that has just been forked: one thread, other threads' locks still locked.

        It takes no lock, waits for nothing, and sends nothing over what the parent has open.
        """


class HeldOverFork(Protocol):
    """An object that no thread is using while the process forks."""

    def before_fork(self) -> None:
        """Wait until no other thread uses the object, and keep them out."""

    def after_fork(self) -> None:
        """Let threads use the object again, in the parent or in the child."""


class HeldLock:
    """Whatever a lock protects, held over a fork by that lock alone.

    Args:
        lock: Held for a moment at a time, and while it is held no other lock is waited for.
    """

    def __init__(self, lock: threading.Lock | threading.Condition) -> None:
        self._lock = lock

    def before_fork(self) -> None:
        """Take the lock."""
        self._lock.acquire()

    def after_fork(self) -> None:
        """Give the lock back."""
        self._lock.release()


_anew: weakref.WeakSet[StartsAnew] = weakref.WeakSet()
_held: weakref.WeakSet[HeldOverFork] = weakref.WeakSet()
_held_lock = threading.Lock()
_held_now: list[HeldOverFork] = []


def starts_anew(thing: StartsAnew) -> None:
    """Let an object start anew in every child that is forked while it lives."""
    _anew.add(thing)  # one step, so threads need no lock


def held_over_fork(thing: HeldOverFork) -> None:
    """Hold an object over every fork while it lives. It must not hold its own lock when it asks for that."""
    with _held_lock:  # none joins between the moment that all are held and the fork
        _held.add(thing)


def was_held(lock: threading.Lock) -> bool:
    """Whether a thread of the parent held a lock at the fork. One that nobody held stays free.

    It is tried, as ``locked()`` says no of a lock that a thread had just got, while it still waited to run.
    """
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


def _before() -> None:
    _held_lock.acquire()
    _held_now.extend(_held)
    for thing in _held_now:
        thing.before_fork()


def _after() -> None:
    for thing in _held_now:
        thing.after_fork()
    _held_now.clear()
    _held_lock.release()


def _after_in_child() -> None:
    _after()
    failures = []
    for thing in list(_anew):
        try:
            thing._start_anew()
        except Exception as failure:  # noqa: BLE001 - the others start anew all the same
            failures.append(failure)
    if failures:  # Python prints it
        raise ExceptionGroup("runstream: not all starts anew in this forked process", failures)


if sys.platform != "win32":
    os.register_at_fork(before=_before, after_in_child=_after_in_child, after_in_parent=_after)
