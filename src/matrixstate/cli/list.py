"""`matrixstate list`."""

from itertools import groupby
from typing import Any

import torch

from matrixstate.cli.output import in_bytes, print_json
from matrixstate.configs import nearest
from matrixstate.errors import ConfigError
from matrixstate.layers import MixerConfig
from matrixstate.mixers import FAMILIES, MIXERS
from matrixstate.ops import OPS


def list_mixers(*, family: str | None = None, width: int = 256, json: bool = False) -> int:
    """Print every mixer by family: its recurrence, its state, its forms, its backends on this machine, and its source.

    Args:
        family: Print the mixers of this family alone.
        width: The model's width for which the state is counted, with default options.
        json: Print one JSON object.
    """
    if width < 1:
        raise ConfigError(f"--width: expected at least 1, got {width}")
    if family is not None and family not in FAMILIES:
        raise ConfigError(f"--family: expected one of {', '.join(FAMILIES)}, got {family!r}{nearest(family, FAMILIES)}")
    described = {kind: describe(config, width) for kind, config in MIXERS.items()}
    mixers = {kind: about for kind, about in described.items() if family in (None, about["family"])}
    if json:
        print_json({"width": width, "mixers": mixers})
        return 0
    for name, members in groupby(mixers.items(), key=lambda item: item[1]["family"]):
        _print_family(name, dict(members), width)
    return 0


def _print_family(name: str, mixers: dict[str, dict[str, Any]], width: int) -> None:
    """Prints a heading and the mixers of one family, or of plug-ins."""
    meaning = (FAMILIES[name].__doc__ or "").splitlines()[0] if name in FAMILIES else "Mixers of plug-ins."
    print(f"== {name}: {meaning}\n")
    for kind, about in mixers.items():
        print(f"{kind}\n  recurrence  {about['recurrence']}\n  state       {about['state']}{_size(about, width)}")
        available = ", ".join(name for name, reason in about["backends"].items() if reason == "available")
        runs_on = f"{about['op']}: {available}" if about["op"] else "plain PyTorch"
        print(f"  forms       {', '.join(about['forms'])}\n  backends    {runs_on}")
        print(f"  source      {about['source']}\n")


def describe(config: type[MixerConfig], width: int) -> dict[str, Any]:
    """A mixer as plain data. The sizes of its state are None if its default options do not fit `width`."""
    per_sequence = per_token = None
    try:
        with torch.device("meta"):  # no weights are allocated
            mixer = config().make(width)
            per_sequence = mixer.state_bytes(0)
            per_token = mixer.state_bytes(1) - per_sequence
    except ConfigError:
        pass
    about = config.about
    family = next((name for name, one in FAMILIES.items() if config in one.MIXERS.values()), "plug-ins")
    backends = {b.name: b.why_not("cpu", torch.float32) or "available" for b in OPS.get(about.op or "", ())}
    sizes = {"state_bytes_per_sequence": per_sequence, "state_bytes_per_token": per_token}
    return {"family": family, **about._asdict(), **sizes, "backends": backends}


def _size(about: dict[str, Any], width: int) -> str:
    """The size of the state with default options, in words."""
    fixed, growing = about["state_bytes_per_sequence"], about["state_bytes_per_token"]
    if fixed is None:
        return f" (the default options do not fit width {width})"
    more = f" and {in_bytes(growing)} per token" if growing else ""
    return f": {in_bytes(fixed)} per sequence{more} at width {width}"
