"""A run: the directory that a training writes, from which it can be repeated and resumed."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
import yaml

import matrixstate
from matrixstate.configs import encode, flatten, read_yaml
from matrixstate.devices import CPU, describe
from matrixstate.errors import CheckpointError, ConfigError
from matrixstate.ops import backends
from matrixstate.plugins import ask_for, loaded_plugins, missing_plugins
from matrixstate.training.config import CHOICES, RunConfig
from matrixstate.training.reading import decode_config
from matrixstate.training.task_config import TaskRunConfig
from matrixstate.training.text_config import TextRunConfig

Config = TypeVar("Config", bound=RunConfig)


@dataclass(frozen=True)
class Run(Generic[Config]):
    """A run's directory and config.

    Files: config.yaml, environment.json, metrics.jsonl, status.json, checkpoints/; of a text also data/, of a task also
    tracking.json; failures/ if the loss or gradient of a step was not finite.
    """

    directory: Path
    config: Config

    @classmethod
    def create(
        cls,
        directory: Path,
        config: Config,
        prepare: Callable[[Path], None] | None = None,
        device: torch.device = CPU,
    ) -> "Run[Config]":
        """Writes a new run, to a temporary directory that is then renamed: it is complete or absent.

        Args:
            directory: must be new or empty.
            config: written into config.yaml.
            prepare: writes the run's data into the directory that it is called with.
            device: where it will be trained; written into environment.json.

        Raises:
            ConfigError: the directory has files in it, or cannot be written.
        """
        target = Path(os.path.abspath(directory))  # "." has no name
        temporary = target.parent / f".{target.name}.part"
        try:
            if directory.exists() and any(directory.iterdir()):
                raise ConfigError(
                    f"out: expected a new or empty directory, got {directory} with files in it; "
                    f"resume it with: matrixstate train --resume {directory}"
                )
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            write_config(temporary, config)
            write_json(temporary / "environment.json", environment(device))
            if prepare is not None:
                prepare(temporary / "data")
            os.replace(temporary, directory)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise ConfigError(f"out: cannot write {directory}: {error.strerror}") from error
        return Run(directory, config)

    @staticmethod
    def open(directory: Path) -> "Run[RunConfig]":
        """Opens an existing run. Raises CheckpointError if its config is missing, damaged or of an older format."""
        path = directory / "config.yaml"
        try:
            data = read_yaml(path.read_text(encoding="utf-8"))
            if isinstance(data, dict) and "task" in data:  # tasks are now under data
                raise CheckpointError(f"run: {directory} was written by an older matrixstate; train it again")
            return Run(directory, decode_config(data))
        except (UnicodeDecodeError, ConfigError) as error:
            hint = ask_for(missing_plugins(directory / "environment.json"))  # the usual reason for an unknown name
            raise CheckpointError(f"run: {path} is damaged: {' '.join(str(error).split())}{hint}") from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = error.strerror if isinstance(error, OSError) else error
            raise CheckpointError(f"run: expected a run directory with {path}: {reason}") from error

    @staticmethod
    def open_text(directory: Path) -> "Run[TextRunConfig]":
        """Opens a run on a text; raises CheckpointError as `open` does, and for a run on a task."""
        run = Run.open(directory)
        if not isinstance(run.config, TextRunConfig):
            raise CheckpointError(
                f"run: expected a run on a text, got one on a task: {directory}; "
                f"measure it with: matrixstate track {directory}"
            )
        return cast("Run[TextRunConfig]", run)

    @staticmethod
    def open_task(directory: Path) -> "Run[TaskRunConfig]":
        """Opens a run on a task; raises CheckpointError as `open` does, and for a run on a text."""
        run = Run.open(directory)
        if not isinstance(run.config, TaskRunConfig):
            raise CheckpointError(f"run: expected a run on a task, got one on a text: {directory}")
        return cast("Run[TaskRunConfig]", run)

    @property
    def data(self) -> Path:
        """The directory of the tokens and the tokenizer of a run on a text."""
        return self.directory / "data"

    @property
    def checkpoints(self) -> Path:
        """The directory of the checkpoints; there may be none yet."""
        return self.directory / "checkpoints"

    @property
    def threads(self) -> int | None:
        """How many threads the run was started with; None if environment.json does not tell."""
        try:
            return int(json.loads((self.directory / "environment.json").read_text(encoding="utf-8"))["threads"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def log(self, **values: Any) -> None:
        """Appends one line to metrics.jsonl."""
        try:
            with (self.directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise CheckpointError(f"run: cannot write {self.directory / 'metrics.jsonl'}: {error.strerror}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without a truncated last one. Raises CheckpointError if others are damaged."""
        path = self.directory / "metrics.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
            values = [json.loads(line) for line in lines]
            if not all(isinstance(value, dict) and isinstance(value.get("step"), int) for value in values):
                raise ValueError("expected a step in every line")
            return values
        except ValueError as error:
            raise CheckpointError(f"run: {path} is damaged: {error}") from error

    def discard_metrics_after(self, step: int) -> None:
        """Deletes the metrics of steps after `step`, which a resumed training repeats."""
        text = "".join(json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= step)
        replace_file(self.directory / "metrics.jsonl", text)

    def set_status(self, status: str, **details: Any) -> None:
        """Writes status.json: "running", "done", "stopped" or "failed", with steps done, results or a reason."""
        write_json(self.directory / "status.json", {"status": status, **details})

    def reconfigure(self, config: RunConfig) -> "Run[RunConfig]":
        """Replaces config.yaml and keeps the earlier one as config-N.yaml; returns the run with the new config."""
        earlier = len(list(self.directory.glob("config-*.yaml"))) + 1
        os.replace(self.directory / "config.yaml", self.directory / f"config-{earlier}.yaml")
        write_config(self.directory, config)
        return Run(self.directory, config)


def write_config(directory: Path, config: RunConfig) -> None:
    """Writes config.yaml."""
    text = yaml.safe_dump(encode(config, CHOICES), sort_keys=False, allow_unicode=True)
    replace_file(directory / "config.yaml", text)


def differences(before: RunConfig, after: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The options in which two configs differ, as {"training.steps": (before, after)}."""
    one, other = flatten(encode(before, CHOICES)), flatten(encode(after, CHOICES))
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return {key: (one.get(key), other.get(key)) for key in keys}


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    replace_file(path, json.dumps(value, indent=1, ensure_ascii=False))


def replace_file(path: Path, text: str) -> None:
    """Writes a text file atomically: to a temporary file that is then renamed."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def sync_directory(path: Path) -> None:
    """Flushes the entries of a directory to the disk, so that files renamed in it survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def environment(device: torch.device = CPU) -> dict[str, Any]:
    """What results on a device may depend on: versions, commit, processor, threads, backends of ops, and plug-ins."""
    packages = {}
    for name in ("torch", "numpy", "safetensors", "tokenizers"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "matrixstate": matrixstate.__version__,
        "python": sys.version.split()[0],
        "packages": packages,
        "commit": _commit(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": describe(device),
        "backends": backends(device.type, torch.float32),
        "plugins": [plugin.data() for plugin in loaded_plugins()],
    }


def processor() -> str:
    """The processor's name, as the operating system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, with a "+" if files were changed; None outside one."""
    here = Path(matrixstate.__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", "__init__.py"):
            return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        pass
    return None
