"""Where models run, by the names that commands and functions take."""

import re

import torch

from matrixstate.errors import ConfigError

CPU = torch.device("cpu")
KINDS = ("auto", "cpu", "cuda", "cuda:N", "mps")
OTHERS: tuple[str, ...] = ()  # kinds of devices that tests make


def find_device(name: str = "auto") -> torch.device:
    """The device of a name: "auto" (the GPU if there is one, else the CPU), "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        ConfigError: another name, or a device that this machine or this build of PyTorch does not have.
    """
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    kind, _, number = name.partition(":")
    numbered = kind in ("cuda", *OTHERS) and number.isdecimal()
    if kind not in ("cpu", "cuda", "mps", *OTHERS) or (":" in name and not numbered):
        raise ConfigError(f"device: expected one of {', '.join(KINDS)}, got {name!r}")
    reason = _missing(kind, int(number or 0))
    if reason is not None:
        raise ConfigError(f"device: expected a device of this machine, got {name!r}: {reason}")
    return torch.device(name)


def kinds_here() -> list[str]:
    """The kinds of devices that this machine has and this build of PyTorch can use, the CPU first."""
    return [kind for kind in ("cpu", "cuda", "mps") if _missing(kind, 0) is None]


def _missing(kind: str, number: int) -> str | None:
    """Why there is no such device; None if there is."""
    if kind == "cuda":
        if not torch.backends.cuda.is_built():
            return f"PyTorch {torch.__version__} is built without CUDA"
        if not torch.cuda.is_available():
            return f"PyTorch {torch.__version__} finds no GPU; nvidia-smi says whether the driver does"
        count = torch.cuda.device_count()
        return None if number < count else f"there are {count}, counted from 0"
    if kind == "mps" and not torch.backends.mps.is_available():
        return "it is part of macOS on Apple's processors"
    return None


def wait(device: torch.device) -> None:
    """Returns when the device has done what it was given, for measurements of time."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def describe(device: torch.device) -> str:
    """The name of a device for people, with that of a GPU."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def kind_of(description: str) -> str:
    """What `describe` returned without a number: devices of one kind give comparable results."""
    return re.sub(r":\d+", "", description)
