"""Tasks on the cores of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from latentcast.errors import StudyError
from latentcast.study.runner.results import part_bytes
from latentcast.study.runner.tasks import Job, Task, run_task

__all__ = ["num_cores", "run_here", "run_on_processes"]

# Tasks handed out per process: enough to keep it busy, few enough for any number of tasks.
TASKS_AHEAD = 2

# Libraries that would start a thread per core in every process.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def num_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system tells
        return os.cpu_count() or 1


def run_here(job: Job, tasks: Iterable[Task]) -> Generator[tuple[Task, bytes], None, None]:
    """Run tasks one after the other in this process."""
    for task in tasks:
        yield task, part_bytes(run_task(job, task))


def run_on_processes(
    job: Job, tasks: Iterable[Task], processes: int
) -> Generator[tuple[Task, bytes], None, None]:
    """Run tasks on processes of one thread each, and yield their parts as they come.

    Closing the iterator, or an exception at its place, ends the processes at once. They end too if this
    process is killed.

    Raises:
        LatentcastError: What a task raised.
        StudyError: If a process was killed.
    """
    remaining = iter(tasks)
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=_follow_parent
    )
    running: dict[Future[bytes], Task] = {}
    try:
        while True:
            with _quiet_start():
                for task in islice(remaining, processes * TASKS_AHEAD - len(running)):
                    running[pool.submit(_work, job, task)] = task
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise StudyError(
            "a worker process was killed, perhaps for want of memory; finished parts are kept, and the same "
            "command goes on from there, with fewer --processes if memory was short"
        ) from error
    finally:
        if running:
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
        pool.shutdown(cancel_futures=True)


def _work(job: Job, task: Task) -> bytes:
    return part_bytes(run_task(job, task))


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent process, and end when it ends, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Start processes with one thread each and with Ctrl-C held back until they ignore it."""
    saved = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    masked = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masked else None
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
