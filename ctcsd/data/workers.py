"""Work on many utterances in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

from tqdm import tqdm

from ctcsd.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int, description: str, unit: str
) -> Iterator[Result]:
    """Results in the order of the tasks, with a progress bar; `work` and the tasks must be picklable.

    Raises:
        UserError: a worker process died.
    """
    bar = partial(tqdm, total=len(tasks), desc=description, unit=unit, mininterval=0.5)
    if jobs <= 1:
        yield from bar(map(work, tasks))
        return
    # spawned, not forked: a fork of a process whose libraries run threads can hang
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_worker) as pool:
        try:
            yield from bar(pool.map(work, tasks, chunksize=16))
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died (out of memory, or a decoder crashed): try --jobs 1 to see where"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it: a killed parent cannot stop its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
