"""Runs jobs in parallel, one thread each, so that Ctrl-C leaves all of them to be gone on with."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

from matrixstate.comparison.running.jobs import Job, run_job
from matrixstate.errors import MatrixStateError
from matrixstate.training.stopping import SIGNALS, Stopped, stopping

Told = Callable[[dict[Job, int], Job | None], None]
"""Is told the steps done of the jobs that are running, and a job that has just ended."""


class Interrupted(Exception):
    """The jobs were stopped by a signal; what they did is kept."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(jobs: Sequence[Job], workers: int, told: Told) -> None:
    """Runs the jobs that have no result yet; with one worker in this process, else in processes of their own.

    Raises Interrupted when a signal stopped them, and what `run_job` does not take for a result.
    """
    todo = [job for job in jobs if job.result() is None]
    if not todo:
        return
    if workers == 1:
        _run_here(todo, told)
    else:
        _run_in_processes(todo, min(workers, len(todo)), told)


class _Left(BaseException):
    """Leaves a job that does not listen to signals itself."""


class _Signals:
    """What a process that runs jobs does with a signal: leave the job, or note it between two jobs."""

    asked: int | None = None
    busy = False

    def note(self, number: int, _: object) -> None:
        self.asked = number
        if self.busy:
            raise _Left

    def run(self, job: Job, tell: Callable[[int], None] | None = None) -> bool:
        """Whether the job came to its end. Its training listens to signals by itself while it runs."""
        if self.asked:
            return False
        try:
            self.busy = True
            run_job(job, tell)
            return True
        except _Left:
            return False
        except Stopped as stop:
            self.asked = stop.signal
            return False
        finally:
            self.busy = False


_signals = _Signals()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run_here(jobs: Sequence[Job], told: Told) -> None:
    signals, before = _Signals(), {}
    if threading.current_thread() is threading.main_thread():
        before = {each: signal.signal(each, signals.note) for each in SIGNALS}
    try:
        with _one_thread():
            for job in jobs:

                def tell(step: int, job: Job = job) -> None:
                    told({job: step}, None)

                if not signals.run(job, tell):
                    raise Interrupted(signals.asked or signal.SIGINT)
                told({}, job)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _run_in_processes(jobs: Sequence[Job], workers: int, told: Told) -> None:
    todo, running = list(jobs), dict[Future[bool], Job]()
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_prepare)
    with stopping() as stop, executor:
        try:
            while (todo or running) and not stop:
                while todo and len(running) < workers:  # none waits inside the executor: it could not be called back
                    job = todo.pop(0)
                    with _deaf():
                        running[executor.submit(_work, job)] = job
                for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    _expect_the_end(future, running[future])
                    told({}, running.pop(future))
                told({job: int(job.progress()["step"]) for job in running.values()}, None)
            if stop:
                raise Interrupted(stop.signal or signal.SIGINT)
        except BaseException:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGTERM)
            raise  # leaving the executor waits for them


def _expect_the_end(future: Future[bool], job: Job) -> None:
    try:
        if not future.result():
            raise Interrupted(signal.SIGTERM)  # someone stopped this one process
    except BrokenProcessPool as error:
        raise WorkerDied(
            f"compare: the process of {job.directory} was killed, by want of memory perhaps; "
            "give the same command to go on, with fewer --jobs"
        ) from error


class WorkerDied(MatrixStateError, RuntimeError):
    """A process that ran jobs is gone."""


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C from their first instruction; they are told to stop by name."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _prepare() -> None:
    """Makes a new process ready: one thread, out of the reach of the terminal's Ctrl-C, ending with its parent."""
    torch.set_num_threads(1)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGTERM, _signals.note)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    while _signals.busy:  # let it save
        time.sleep(0.1)
    os._exit(1)


def _work(job: Job) -> bool:
    return _signals.run(job)
