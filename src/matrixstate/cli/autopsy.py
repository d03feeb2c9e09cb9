"""`matrixstate autopsy`."""

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from matrixstate.cli.output import print_json, print_table
from matrixstate.training.autopsy import perform_autopsy


def autopsy(bundle: Positional[Path], *, json: bool = False) -> int:
    """Replay a training step whose numbers were not finite, and name the first operation at fault.

    The step is replayed in the precision of training and in float64, which distinguishes an overflow of the number
    format from mathematics that diverges.

    Args:
        bundle: The directory failures/step-N of a run, with a step that failed.
        json: Print one JSON object.
    """
    found = perform_autopsy(bundle)
    if json:
        faults = {name: None if fault is None else dataclasses.asdict(fault) for name, fault in found.fault.items()}
        print_json(
            {
                "step": found.step,
                "loss": {k: str(v) for k, v in found.loss.items()},
                "fault": faults,
                "verdict": found.verdict,
            }
        )
        return 0
    fields = ("phase", "module", "op", "position", "shape", "value", "largest_input")
    rows = [[field, *(getattr(fault, field, "-") for fault in found.fault.values())] for field in fields]
    print_table((f"step {found.step}", *found.fault), [["loss", *found.loss.values()], *rows])
    print(found.verdict)
    return 0
