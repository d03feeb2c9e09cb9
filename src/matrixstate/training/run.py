"""A run: the directory that a training leaves behind, from which it can be repeated or gone on with."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

import matrixstate
from matrixstate.configs import decode, encode
from matrixstate.errors import CheckpointError, ConfigError
from matrixstate.ops import backends
from matrixstate.training.config import CHOICES, RunConfig


@dataclass(frozen=True)
class Run:
    """The files of a run: config.yaml, environment.json, metrics.jsonl, status.json, data/, checkpoints/, samples/."""

    directory: Path
    config: RunConfig

    @classmethod
    def create(cls, directory: Path, config: RunConfig) -> "Run":
        """A new run in `directory`, which must not exist or be empty. Writes the config and the environment."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if any(directory.iterdir()):
                raise ConfigError(
                    f"out: expected a new or empty directory, got {directory} with files in it; "
                    f"go on with: matrixstate train --resume {directory}"
                )
            text = yaml.safe_dump(encode(config, CHOICES), sort_keys=False, allow_unicode=True)
            (directory / "config.yaml").write_text(text, encoding="utf-8")
            write_json(directory / "environment.json", environment())
        except OSError as error:
            raise ConfigError(f"out: cannot write {directory}: {error.strerror}") from error
        return cls(directory, config)

    @classmethod
    def open(cls, directory: Path) -> "Run":
        """An existing run. Raises CheckpointError if it is missing or its config is damaged."""
        path = directory / "config.yaml"
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
            return cls(directory, decode(RunConfig, data, CHOICES))
        except OSError as error:
            raise CheckpointError(f"run: expected a run directory with {path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError, ConfigError) as error:
            raise CheckpointError(f"run: {path} is damaged: {' '.join(str(error).split())}") from error

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    def log(self, **values: Any) -> None:
        """Adds one line to metrics.jsonl."""
        with (self.directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        path = self.directory / "metrics.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]

    def forget_after(self, step: int) -> None:
        """Drops the metrics of later steps than `step`: those of a stretch that is about to be run again."""
        lines = [line for line in self.metrics() if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (self.directory / "metrics.jsonl").write_text(text, encoding="utf-8")

    def finish(self, status: str, **details: Any) -> None:
        """Writes status.json: "running", "done", "stopped" or "failed", and what came out."""
        write_json(self.directory / "status.json", {"status": status, **details})


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file by way of a temporary one, so that it is never seen half written."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(temporary, path)


def environment() -> dict[str, Any]:
    """What numbers may depend on: versions, commit, processor, threads, and the backend of each op."""
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
        "backends": backends("cpu", torch.float32),
    }


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout this package runs from, "+" behind it if files differ; None outside one."""
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
