"""Tasks on a Ray cluster. Workers need the installed package, and the recording at the same path."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Generator, Iterable
from importlib.util import find_spec
from itertools import islice
from typing import Any

from latentcast.errors import LatentcastError, ParameterError, StudyError
from latentcast.study.runner.results import part_bytes
from latentcast.study.runner.tasks import Job, Task, run_task

__all__ = ["check_cluster", "run_on_cluster"]

# Of one connection, and of the trial below.
CONNECT_SECONDS = 5.0
TRIAL_SECONDS = 45.0

# How often a task is begun anew because its node is gone.
MAX_RETRIES = 20

# A cluster may grow while it works, so a few tasks more than it has cores wait there.
MIN_TASKS_AHEAD = 16

_TRIAL = "import sys, ray; ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False)"


def run_on_cluster(
    job: Job, tasks: Iterable[Task], address: str
) -> Generator[tuple[Task, bytes], None, None]:
    """Run tasks on a cluster, and yield their parts as they come.

    A task whose node dies is run again on another; a part depends on its task alone, so nothing else changes.

    Args:
        job: The study.
        tasks: What to run.
        address: "host:port" of the head, "ray://host:port" of its client server, or "auto" for a cluster
            that this machine belongs to.

    Raises:
        ParameterError: If there is no cluster at the address, within about a minute.
        StudyError: If the cluster is lost.
        LatentcastError: What a task raised.
    """
    check_cluster(address)
    import ray

    remaining = iter(tasks)
    connected = not ray.is_initialized()
    if connected:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    try:
        work = ray.remote(max_retries=MAX_RETRIES, num_cpus=1)(_work)
        shared = ray.put(job)
        running: dict[Any, Task] = {}
        while True:
            ahead = max(MIN_TASKS_AHEAD, 2 * int(ray.cluster_resources().get("CPU", 1)))
            for task in islice(remaining, ahead - len(running)):
                running[work.remote(shared, task)] = task
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                part = ray.get(reference)
                if isinstance(part, LatentcastError):
                    raise part
                yield running.pop(reference), part
    except (ray.exceptions.RayError, ConnectionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StudyError(
            f"the Ray cluster at {address} failed: {reason}; finished parts are kept, and the same command "
            "goes on from there"
        ) from error
    finally:
        if connected:
            with contextlib.suppress(Exception):  # of a cluster that is gone
                ray.shutdown()


def _work(job: Job, task: Task) -> bytes | LatentcastError:
    # As a value: what is raised comes back as an error of Ray's.
    try:
        return part_bytes(run_task(job, task))
    except LatentcastError as error:
        return error


def check_cluster(address: str) -> None:
    """Connect for a trial; Ray itself waits for minutes, or ends the process, where there is no cluster.

    Raises:
        ParameterError: If there is no cluster at the address, within about a minute, or no Ray here.
    """
    if find_spec("ray") is None:
        raise ParameterError("--ray needs Ray; install it with: pip install 'latentcast[cluster]'")
    problem = _unreachable(address)
    if problem is None:
        try:
            trial = subprocess.run(
                [sys.executable, "-c", _TRIAL, address],
                capture_output=True,
                text=True,
                timeout=TRIAL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            problem = f"no answer within {TRIAL_SECONDS:.0f} s"
        else:
            if trial.returncode == 0:
                return
            problem = (trial.stderr.strip().splitlines() or [f"exit code {trial.returncode}"])[-1][:200]
    raise ParameterError(
        f"there is no Ray cluster at {address!r}: {problem}; give host:port of a running head, "
        "ray://host:port, or auto"
    )


def _unreachable(address: str) -> str | None:
    """Why nothing listens at host:port; None if something does, or Ray has to find the cluster itself."""
    if address == "auto":
        return None
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isdigit()):
        return "this is no host:port"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        return str(getattr(error, "strerror", None) or error).lower()
    return None
