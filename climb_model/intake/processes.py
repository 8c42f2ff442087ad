"""Work on many files by several processes, which Ctrl-C or a lost one ends in one line."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from climb_model.data.exam import DataError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_processes(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int, chunk: int, verb: str
) -> Generator[_Result]:
    """Results in the order of the items. Close it where not all are taken: what has not begun is dropped.

    Args:
        work: a function that a new process can import.
        items: given out at once.
        workers: processes.
        chunk: items handed to a process at a time.
        verb: what runs, for the error.

    Raises:
        DataError: a process was lost.
    """
    context = get_context("spawn")  # a fork would copy threads in an unknown state
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            yield from pool.map(work, items, chunksize=chunk)
        except BrokenProcessPool:
            raise DataError(
                f"{verb}: a worker process died, most likely for lack of memory; "
                "run the command again, with fewer --workers",
                f"a worker process of the {verb} died",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Ctrl-C is for the parent: a worker finishes what it has."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
