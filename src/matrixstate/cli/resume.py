"""Changes of a run's config on `matrixstate train --resume`."""

import dataclasses

from matrixstate.configs import encode, flatten, nearest
from matrixstate.errors import ConfigError
from matrixstate.training import CHOICES, Run, RunConfig
from matrixstate.training.checkpoint import find_checkpoint, list_checkpoints, step_of, trained_config
from matrixstate.training.run import differences
from matrixstate.training.start import expect_trainable


def accept_changes(run: Run, wanted: RunConfig, accept: tuple[str, ...]) -> Run:
    """The run with the wanted config, if every difference from the config so far is accepted.

    The config so far is that of the newest checkpoint, since config.yaml may have been edited.

    Args:
        run: the run to resume.
        wanted: the config to resume with.
        accept: names of options that may differ, as in "training.steps"; only options of training can.

    Raises:
        ConfigError, DataError: a change that is not accepted or does not fit; the run is unchanged.
    """
    vocabulary = wanted.model.vocabulary or run.config.model.vocabulary
    wanted = dataclasses.replace(wanted, model=dataclasses.replace(wanted.model, vocabulary=vocabulary))
    if wanted.training.precision == "auto":  # means what it meant when the run was started, maybe on another machine
        training = dataclasses.replace(wanted.training, precision=run.config.training.precision)
        wanted = dataclasses.replace(wanted, training=training)
    before, done = run.config, 0
    if list_checkpoints(run.checkpoints):
        checkpoint, _ = find_checkpoint(run.checkpoints)
        before, done = trained_config(checkpoint) or run.config, step_of(checkpoint)
    problems = [*_unknown(accept, before, wanted), *_refused(differences(before, wanted), accept)]
    if wanted.training.steps < done:
        problems = [f"--resume: training.steps: expected at least the {done} done, got {wanted.training.steps}"]
    if problems:
        raise ConfigError(problems)
    expect_trainable(run, wanted)
    return run if wanted == run.config else run.reconfigure(wanted)


def _unknown(accept: tuple[str, ...], *configs: RunConfig) -> list[str]:
    known = {key for config in configs for key in flatten(encode(config, CHOICES))}
    return [f"--accept {key}: unknown key{nearest(key, known)}" for key in accept if key not in known]


def _refused(changes: dict, accept: tuple[str, ...]) -> list[str]:
    return [
        f"--resume: {key}: the run has {before!r}, got {after!r}"
        + ("; accept with --accept " + key if key.startswith("training.") else "; this cannot change in a run")
        for key, (before, after) in changes.items()
        if key not in accept or not key.startswith("training.")
    ]
