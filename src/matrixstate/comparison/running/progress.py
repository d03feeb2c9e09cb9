"""Does what is left of some jobs and tells how it goes."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from matrixstate.comparison.running.jobs import Job
from matrixstate.comparison.running.pool import run_jobs


class Listener(Protocol):
    """Is told how a comparison goes."""

    def begin(self, what: str, jobs: int, finished: int, steps: int) -> None:
        """There are so many jobs, so many of them finished; the others have so many steps left."""

    def update(self, steps: int, running: Sequence[str]) -> None:
        """So many of the steps left are done now, and these jobs are running."""

    def ended(self, name: str, found: dict[str, Any]) -> None:
        """One job has come to its end."""


def finish(what: str, jobs: Sequence[Job], workers: int, listener: Listener, name_of: Callable[[Job], str]) -> None:
    """Runs the jobs that are not finished, so many at once; `what` they are. Raises pool.Interrupted for a signal."""
    ahead = 0
    begun = {job: int(job.kept()["step"]) for job in jobs if job.result() is None}
    steps = sum(job.steps - step for job, step in begun.items())
    listener.begin(what, len(jobs), len(jobs) - len(begun), steps)

    def told(running: dict[Job, int], ended: Job | None) -> None:
        nonlocal ahead
        if ended is not None:
            ahead += ended.steps - begun[ended]
            listener.ended(name_of(ended), ended.result() or {})
        now = sum(max(0, step - begun[job]) for job, step in running.items())
        listener.update(ahead + now, [name_of(job) for job in running])

    run_jobs(jobs, workers, told)
