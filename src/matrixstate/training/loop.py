"""The training loop, the same for every run, over what `session.py` can do: step, validate, save, evaluate."""

from collections.abc import Sequence
from contextlib import suppress

import torch

from matrixstate.devices import CPU
from matrixstate.errors import MatrixStateError
from matrixstate.training.memory import explaining
from matrixstate.training.outcome import Outcome
from matrixstate.training.report import Reporter
from matrixstate.training.run import Run
from matrixstate.training.session import Session
from matrixstate.training.settings import settings
from matrixstate.training.stopping import stopping
from matrixstate.training.streams import Evaluation


def train(
    run: Run,
    reporters: Sequence[Reporter] = (),
    *,
    resume: bool = False,
    stop_after: int | None = None,
    device: torch.device = CPU,
) -> Outcome:
    """Trains a run to its last step, or until SIGINT or SIGTERM, or for `stop_after` more steps.

    The last step is saved in each of these cases; a second signal ends the process at once.

    Args:
        run: as made by `start` or opened by `Run.open`.
        reporters: called at every step and evaluation, besides the run's own log.
        resume: continue from the newest undamaged checkpoint, bit for bit as if the training had not stopped. Default:
            start at step 0.
        stop_after: steps of this session at most. Default: all that are left.
        device: where to train; another than before is allowed on resuming, with other roundings.

    Raises:
        ConfigError: an option of training that cannot be had on the device; nothing has changed.
        OutOfMemory: a step does not fit into the memory of the device.
        Diverged: a loss or gradient that is not finite, or more of them than may be skipped. The weights are those
            before the step, and a bundle for `matrixstate autopsy` is in the run's failures/.
        CheckpointError: the run is damaged, or a checkpoint cannot be written.
    """
    with stopping() as stop, settings(run.config, device):
        session = Session(run, reporters, resume, stop, device)
        steps, done = run.config.training.steps, session.progress.step
        try:
            evaluation = _advance(session, steps if stop_after is None else min(steps, done + stop_after))
        except MatrixStateError as error:
            with suppress(OSError):  # on a full disk, which may be the reason, this fails too
                run.set_status("failed", step=session.progress.step, reason=str(error))
            raise
    stopped = stop.signal if evaluation is None else None
    return Outcome(session.progress, stopped, evaluation, session.skipped, session.speed())


def _advance(session: Session, last: int) -> Evaluation | None:
    """Trains until step `last` or a signal; after the run's last step, returns the evaluation of the final model."""
    run, progress, training = session.run, session.progress, session.run.config.training
    run.set_status("running", step=progress.step)
    if session.evaluation_is_missing():  # a stop came between a step and its evaluation
        session.validate()
    while progress.step < last and not session.stop:
        with explaining(run.directory, training, session.runtime.device, lambda: session.stream.batch(progress.step)):
            session.step()
        if session.evaluates_after(progress.step):
            session.validate()
        if progress.step % training.checkpoint_every == 0 and progress.step < last:
            session.save()
    if progress.step == training.steps and not progress.finished:
        session.finish_model()
    session.save()
    evaluation = session.evaluate() if progress.step == training.steps else None
    if evaluation is None:
        run.set_status("stopped", step=progress.step)
    return evaluation
