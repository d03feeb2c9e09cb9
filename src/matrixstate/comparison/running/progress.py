"""Runs the unfinished ones of some jobs and reports their progress."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from matrixstate.comparison.running.jobs import Job
from matrixstate.comparison.running.pool import run_jobs


class Listener(Protocol):
    """Receives the progress of a comparison."""

    def begin(self, what: str, jobs: int, finished: int, steps: int) -> None:
        """Called first: the number of jobs, how many of them are finished, and the steps that the others have left."""

    def update(self, steps: int, running: Sequence[str]) -> None:
        """Called often: how many of those steps are done by now, and the names of the running jobs."""

    def finished(self, name: str, result: dict[str, Any]) -> None:
        """Called when a job is finished, with its result."""


def run_unfinished(
    what: str, jobs: Sequence[Job], workers: int, listener: Listener, name_of: Callable[[Job], str]
) -> None:
    """Runs the unfinished jobs, `workers` at once. `what` names them to the listener, `name_of` each of them.

    Raises pool.Interrupted when a signal stopped them.
    """
    done = 0  # steps of the jobs that finished since the call
    start = {job: int(job.progress()["step"]) for job in jobs if job.result() is None}
    steps = sum(job.steps - step for job, step in start.items())
    listener.begin(what, len(jobs), len(jobs) - len(start), steps)

    def report(running: dict[Job, int], finished: Job | None) -> None:
        nonlocal done
        if finished is not None:
            done += finished.steps - start[finished]
            listener.finished(name_of(finished), finished.result() or {})
        now = sum(max(0, step - start[job]) for job, step in running.items())
        listener.update(done + now, [name_of(job) for job in running])

    run_jobs(jobs, workers, report)
