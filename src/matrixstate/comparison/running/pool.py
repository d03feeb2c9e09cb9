"""Runs jobs in parallel, one thread each. Ctrl-C stops all of them so that they can be resumed."""

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
from matrixstate.plugins import load_plugins, loaded_plugins
from matrixstate.training.stopping import SIGNALS, Stopped, stopping

Report = Callable[[dict[Job, int], Job | None], None]
"""Called with the steps done by each running job, and with a job that has just finished."""


class Interrupted(Exception):
    """The jobs were stopped by a signal; their checkpoints are saved."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def cores() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(jobs: Sequence[Job], workers: int, report: Report) -> None:
    """Runs the jobs that have no result yet: with one worker in this process, otherwise in processes of their own.

    Raises Interrupted when a signal stopped them, and errors that `run_job` does not turn into a result.
    """
    todo = [job for job in jobs if job.result() is None]
    if not todo:
        return
    if workers == 1:
        _run_here(todo, report)
    else:
        _run_in_processes(todo, min(workers, len(todo)), report)


class _Exit(BaseException):
    """Ends a job that is in code without a signal handler of its own."""


class _Signals:
    """The signal handler of a process that runs jobs: ends the job; between two jobs, only records the signal."""

    received: int | None = None
    busy = False

    def handle(self, number: int, _: object) -> None:
        self.received = number
        if self.busy:
            raise _Exit

    def run(self, job: Job, on_step: Callable[[int], None] | None = None) -> bool:
        """Runs a job; returns whether it finished. While it trains, training has its own signal handler."""
        if self.received:
            return False
        try:
            self.busy = True  # from here on a signal raises _Exit
            run_job(job, on_step)
            return True
        except _Exit:
            return False
        except Stopped as stop:
            self.received = stop.signal
            return False
        finally:
            self.busy = False


_signals = _Signals()


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, so that jobs do not compete and give the same numbers with any number of workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run_here(jobs: Sequence[Job], report: Report) -> None:
    signals, before = _Signals(), {}
    if threading.current_thread() is threading.main_thread():
        before = {each: signal.signal(each, signals.handle) for each in SIGNALS}
    try:
        with _one_thread():
            for job in jobs:

                def on_step(step: int, job: Job = job) -> None:
                    report({job: step}, None)

                if not signals.run(job, on_step):
                    raise Interrupted(signals.received or signal.SIGINT)
                report({}, job)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _run_in_processes(jobs: Sequence[Job], workers: int, report: Report) -> None:
    todo, running = list(jobs), dict[Future[bool], Job]()
    # a forked process would inherit torch's thread pool without its threads, and hang
    plugins = [plugin.source for plugin in loaded_plugins()]
    executor = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_prepare_process, initargs=(plugins,)
    )
    with stopping() as stop, executor:
        try:
            while (todo or running) and not stop:
                while todo and len(running) < workers:  # a job queued in the executor could not be cancelled
                    job = todo.pop(0)
                    with _ignoring_interrupts():
                        running[executor.submit(_work, job)] = job
                # the timeout: a signal and the progress of running jobs are seen soon
                for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    _require_finished(future, running[future])
                    report({}, running.pop(future))
                report({job: int(job.progress()["step"]) for job in running.values()}, None)
            if stop:
                raise Interrupted(stop.signal or signal.SIGINT)
        except BaseException:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGTERM)
            raise  # leaving `with executor` waits until they have saved


def _require_finished(future: Future[bool], job: Job) -> None:
    try:
        if not future.result():
            raise Interrupted(signal.SIGTERM)  # this process alone was stopped, from outside
    except BrokenProcessPool as error:
        raise WorkerDied(
            f"compare: the process of {job.directory} was killed, perhaps for lack of memory; "
            "run the same command to resume, with fewer --jobs"
        ) from error


class WorkerDied(MatrixStateError, RuntimeError):
    """A process that ran jobs was killed."""


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C from their first instruction: the parent alone stops them, by SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _prepare_process(plugins: Sequence[str]) -> None:
    """Initializes a worker: one thread, not reached by the terminal's Ctrl-C, exits with its parent.

    It loads the plug-ins of its parent, without which it could not decode the jobs.
    """
    torch.set_num_threads(1)
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # the terminal sends Ctrl-C to its own process group only
    signal.signal(signal.SIGTERM, _signals.handle)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    load_plugins(plugins)


def _exit_with_parent() -> None:
    """Waits for the end of the parent, which sends no signal if it was killed, and then ends this process."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    while _signals.busy:  # until its checkpoint is saved
        time.sleep(0.1)
    os._exit(1)


def _work(job: Job) -> bool:
    return _signals.run(job)
