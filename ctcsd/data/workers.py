"""Work on many utterances in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from ctcsd.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
CHUNK = 16  # tasks that a process takes at a time
MOST_CRASHES = 20  # each costs seconds, for new processes


def in_processes(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    jobs: int,
    description: str,
    unit: str,
    crashed: Callable[[Task], Result],
) -> Iterator[Result]:
    """Results in the order of the tasks, with a progress bar; `work` and the tasks must be picklable.

    With several jobs, a task at which its process dies (a decoder that crashes, the end of memory) has the result
    `crashed(task)`, and the others go on.

    Raises:
        UserError: processes die again and again.
    """
    results = map(work, tasks) if jobs <= 1 else _in_pools(work, tasks, jobs, crashed)
    yield from tqdm(results, total=len(tasks), desc=description, unit=unit, mininterval=0.5)


def _in_pools(
    work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int, crashed: Callable[[Task], Result]
) -> Iterator[Result]:
    done = crashes = 0
    while done < len(tasks):
        try:
            for result in _pool(work, tasks[done:], jobs, CHUNK):
                done += 1
                yield result
        except BrokenProcessPool:  # by one of those that were under way: one by one, it shows which
            try:
                for result in _pool(work, tasks[done : done + 2 * jobs * CHUNK], 1, 1):
                    done += 1
                    yield result
            except BrokenProcessPool:
                crashes += 1
                if crashes > MOST_CRASHES:
                    raise UserError(
                        "worker processes die again and again (out of memory, or a decoder that crashes): "
                        "try --jobs 1 to see where"
                    ) from None
                yield crashed(tasks[done])
                done += 1


def _pool(work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int, chunk: int) -> Iterator[Result]:
    # spawned, not forked: a fork of a process whose libraries run threads can hang
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_worker) as pool:
        try:
            yield from pool.map(work, tasks, chunksize=chunk)
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
