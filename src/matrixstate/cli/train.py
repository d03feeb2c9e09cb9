"""`matrixstate train`."""

import dataclasses
import os
import sys
from pathlib import Path

import torch
from tyro.conf import Positional, UseAppendAction

from matrixstate.cli.output import TrainingProgress, in_bytes, in_time, print_json, print_table, print_tracking
from matrixstate.cli.places import unused
from matrixstate.cli.resume import accept_changes
from matrixstate.configs import load_yaml
from matrixstate.data import tokenize
from matrixstate.devices import find_device
from matrixstate.errors import ConfigError, require
from matrixstate.evaluation.tracking import Tracking
from matrixstate.training import Outcome, Run, RunConfig, TaskRunConfig, TextRunConfig, load_config, start
from matrixstate.training import train as train_run
from matrixstate.training.checkpoint import list_checkpoints
from matrixstate.training.plan import make_plan
from matrixstate.training.reading import names_task
from matrixstate.training.start import with_vocabulary


def train(
    config: Positional[Path | None] = None,
    *,
    text: UseAppendAction[tuple[Path, ...]] = (),
    out: Path | None = None,
    set: UseAppendAction[tuple[str, ...]] = (),
    steps: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    resume: Path | None = None,
    accept: UseAppendAction[tuple[str, ...]] = (),
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Train a model on a text or a task as a YAML file describes, or resume a run.

    Ctrl-C finishes the step, saves, and prints how to resume (exit status 130); a second Ctrl-C ends at once. A
    training on a task ends with a measurement of how far the model tracks.

    Args:
        config: The YAML file of the run.
        text: A file or folder of UTF-8 text to train on, instead of the config's.
        out: A new directory for the run. Default: runs/NAME.
        set: An option of the config, as in training.steps=100 or model.blocks.0.mixer.heads=8.
        steps: Short for --set training.steps=N.
        seed: Short for --set seed=N.
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        threads: Number of threads. Default: PyTorch's choice.
        resume: The directory of a run to resume from its newest undamaged checkpoint, with as many threads as before.
        accept: With --resume: an option of the config that may differ from the run's, as in training.steps.
        dry_run: Print parameters, state, FLOPs, memory and an estimate of the time; train nothing.
        json: Print the result as one JSON object.
    """
    place = find_device(device)
    if resume is not None:
        if dry_run or out:
            raise ConfigError(f"--resume: expected neither --out nor --dry-run, got {'--out' if out else '--dry-run'}")
        run = Run.open(resume)
        set_threads(run.threads if threads is None else threads)
        wanted = load_config(config or resume / "config.yaml", _assignments(text, set, steps, seed))
        has_checkpoint = bool(list_checkpoints(run.checkpoints))
        if not has_checkpoint:  # stopped before the first one
            print(f"matrixstate: no checkpoint in {run.checkpoints}; starting at step 0", file=sys.stderr)
        return _train(accept_changes(run, wanted, accept), resume=has_checkpoint, device=place, json=json)
    if accept:
        raise ConfigError("--accept: expected only with --resume")
    set_threads(threads)
    if config is None:
        raise ConfigError("train: expected a CONFIG file or --resume RUN, got neither")
    if text and names_task(load_yaml(config).get("data")):
        raise ConfigError("--text: expected none for a task")
    loaded = load_config(config, _assignments(text, set, steps, seed))
    if dry_run:
        return _plan(loaded, json)
    return _train(
        start(out or unused(Path("runs") / loaded.name), loaded, place), resume=False, device=place, json=json
    )


def set_threads(threads: int | None) -> None:
    """Sets PyTorch's number of threads, unless it is None. Raises ConfigError unless it is 1 to 1024."""
    if threads is not None:
        require(
            (threads >= 1, f"--threads: expected at least 1, got {threads}"),
            (threads <= 1024, f"--threads: expected at most 1024, got {threads}"),
        )
        torch.set_num_threads(threads)


def _assignments(text: tuple[Path, ...], set: tuple[str, ...], steps: int | None, seed: int | None) -> list[str]:
    """The options --text, --set, --steps and --seed as overrides of the config; paths made absolute."""
    files = [f"data.files={[os.path.abspath(path) for path in text]!r}"] if text else []
    short = [("training.steps", steps), ("seed", seed)]
    return [*set, *files, *(f"{key}={value}" for key, value in short if value is not None)]


def _train(run: Run, *, resume: bool, device: torch.device, json: bool) -> int:
    with TrainingProgress(run.config.name, run.config.training.steps) as progress:
        outcome = train_run(run, [progress], resume=resume, device=device)
    _print_outcome(run, outcome, json)
    return 128 + outcome.stopped if outcome.stopped else 0


def _print_outcome(run: Run, outcome: Outcome, json: bool) -> None:
    if outcome.tracking is not None:
        _print_tracking(run, outcome, outcome.tracking, json)
    elif json:
        loss = outcome.validation
        numbers = {} if loss is None else {"nats_per_token": loss.nats_per_token, "bits_per_byte": loss.bits_per_byte}
        speed = round(outcome.tokens_per_second, 1)
        print_json({"run": str(run.directory), "step": outcome.step, "tokens_per_second": speed, **numbers})
    elif outcome.validation is None:
        print(f"stopped after step {outcome.step}; resume it with: matrixstate train --resume {run.directory}")
    else:
        loss = outcome.validation
        print(
            f"validation: {loss.nats_per_token:.4f} nats per token, {loss.bits_per_byte:.4f} bits per byte; "
            f"{outcome.tokens_per_second:,.0f} tokens/s in training\n"
            f"try: matrixstate generate {run.directory}"
        )


def _print_tracking(run: Run, outcome: Outcome, tracking: Tracking, json: bool) -> None:
    assert isinstance(run.config, TaskRunConfig)
    print_tracking(tracking, run.config.training.length, json, run=str(run.directory), step=outcome.step)
    if json:
        return
    if outcome.solved_at is not None:
        step, seconds = outcome.solved_at
        print(f"99 % at the full training length after {step:,} steps, {seconds:,.1f} CPU seconds")
    longer = 8 * run.config.evaluate_length
    print(f"measure longer sequences with: matrixstate track {run.directory} --length {longer}")


def _plan(config: RunConfig, json: bool) -> int:
    """Prints the plan of a run; returns the exit status."""
    if not isinstance(config, TextRunConfig):
        raise ConfigError("--dry-run: expected none for a task, whose curriculum sets the cost")
    plan = make_plan(with_vocabulary(config, tokenize(config.data)))
    counts = plan.counts
    if json:
        print_json(dataclasses.asdict(plan))
        return 0
    print_table(
        ("", config.name),
        [
            ("parameters", f"{counts.parameters:,}"),
            ("without embeddings", f"{counts.parameters_without_embeddings:,}"),
            ("of these used by a token", f"{counts.active_parameters:,}"),
            (f"state per sequence of {config.training.sequence}", in_bytes(counts.state_bytes)),
            ("forward FLOPs per token", f"{counts.flops_per_token:,}"),
            ("memory" if plan.tried else "memory without activations", in_bytes(plan.memory_bytes)),
            ("steps", f"{plan.steps:,}"),
            ("tokens", f"{plan.steps * plan.tokens_per_step:,}"),
            ("time, roughly", in_time(plan.seconds)),
        ],
    )
    return 0
