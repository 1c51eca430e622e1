"""Calls to the system that fail as on a broken disk, also those that libraries in C make.

The kernel itself refuses them (seccomp), to one thread or process and for as long as that lives: no rights are
needed for it, and it cannot be taken back. Linux on x86_64 and aarch64.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import threading
from collections.abc import Callable, Collection
from typing import TypeVar

__all__ = ["CAN_REFUSE", "KILL", "refuse", "where_refused"]

T = TypeVar("T")

KILL = 0
"""In place of an error: who makes the call is killed at once."""

_NUMBERS = {
    "x86_64": {"fsync": 74, "fdatasync": 75, "write": 1, "pwrite64": 18, "ftruncate": 77},
    "aarch64": {"fsync": 82, "fdatasync": 83, "write": 64, "pwrite64": 68, "ftruncate": 46},
}
CAN_REFUSE = platform.system() == "Linux" and platform.machine() in _NUMBERS

_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERROR, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000


def refuse(calls: Collection[str], error: int) -> None:
    """From now on these calls of this thread fail with this error number, or kill the process."""
    numbers = [_NUMBERS[platform.machine()][call] for call in calls]
    verdict = _KILL_PROCESS if error == KILL else _ERROR | error
    steps = [(_LOAD, 0, 0, 0)]  # the call's number
    steps += [(_IF_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, verdict)]
    program = b"".join(struct.pack("HBBI", *step) for step in steps)
    content = ctypes.create_string_buffer(program, len(program))
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(content)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SECCOMP, _FILTER, ctypes.addressof(described), 0, 0)):
        done = prctl(*(ctypes.c_ulong(argument) for argument in arguments))
        assert done == 0, f"this kernel refuses no calls: errno {ctypes.get_errno()}"


def where_refused(calls: Collection[str], error: int, act: Callable[[], T]) -> T:
    """What ``act`` gives or raises in a thread of which these calls fail."""
    results: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            refuse(calls, error)
            results.append(act())
        except BaseException as caught:  # noqa: BLE001 - handed on to the caller
            raised.append(caught)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return results[0]
