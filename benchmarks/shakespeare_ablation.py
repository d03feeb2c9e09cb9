"""The effect of each option of `mru-text` and `m2rnn-text`: the ablation table of docs/shakespeare.md.

    python benchmarks/shakespeare_ablation.py --out DIR --text tinyshakespeare.txt [--rows mru conv] [--seed 0]

The last tenth of the text is not used: models are trained on the first 90 % of the rest and evaluated on its end, so
that no option is chosen by the validation text of the other tables. 500 steps, one thread, a minute or two per row.
Finished rows are not repeated.
"""

import argparse
import json
from pathlib import Path

import torch
from shakespeare import CONFIGS

from matrixstate.data import open_corpus
from matrixstate.training import load_config, load_model, start, train
from matrixstate.training.streams import validation_loss

WINDOWS = (64, 1024)
MIXER, HIDDEN, RATE = "model.blocks.0.mixer", "model.blocks.0.mlp.hidden", "training.learning_rate"
FAST = f"{RATE}=4.0e-3"
NARROW_MRU = (f"{MIXER}.heads=16", f"{MIXER}.state_size=256", f"{MIXER}.channels=256", f"{HIDDEN}=328")
NARROW_M2RNN = (f"{MIXER}.heads=16", f"{HIDDEN}=352")
UNBOUND = (f"{MIXER}.weight_start=1.0", f"{MIXER}.weight_bound=null")


def rate(parameters: str, factor: float) -> str:
    return f"training.rates=[{{parameters: '{parameters}', factor: {factor}}}]"


ROWS = {  # name: (config, overrides)
    "m2rnn": ("m2rnn-text", (FAST, f"{HIDDEN}=156")),
    "m2rnn, W free and started at I": ("m2rnn-text", (FAST, f"{HIDDEN}=156", *UNBOUND)),
    "m2rnn, narrow": ("m2rnn-text", (FAST, *NARROW_M2RNN)),
    "m2rnn, narrow, 4 heads of q and k": (
        "m2rnn-text",
        (FAST, f"{MIXER}.heads=16", f"{HIDDEN}=328", f"{MIXER}.query_heads=4", f"{MIXER}.key_heads=4"),
    ),
    "m2rnn, narrow, rate 2e-3": ("m2rnn-text", (f"{RATE}=2.0e-3", *NARROW_M2RNN)),
    "m2rnn, narrow, rate 2e-3, 32 heads of 4 x 8": (
        "m2rnn-text",
        (
            f"{RATE}=2.0e-3",
            f"{MIXER}.heads=32",
            f"{MIXER}.key_size=4",
            f"{MIXER}.value_size=8",
            f"{HIDDEN}=344",
        ),
    ),
    "m2rnn, narrow, rate 2e-3, W free and started at I": (
        "m2rnn-text",
        (f"{RATE}=2.0e-3", *NARROW_M2RNN, *UNBOUND),
    ),
    **{
        f"m2rnn, {what} at {factor:g} times the rate": (
            "m2rnn-text",
            (FAST, f"{HIDDEN}=156", rate(parameters, factor)),
        )
        for what, parameters in (("W", "*.mixer.weight"), ("forget gate", "*.mixer.forget_gate.*"))
        for factor in (0.3, 3)
    },
    "mru": ("mru-text", (FAST, f"{HIDDEN}=92")),
    "mru, not balanced": ("mru-text", (FAST, f"{HIDDEN}=92", f"{MIXER}.balanced=false")),
    "mru, narrow": ("mru-text", (FAST, *NARROW_MRU)),
    "mru, narrow, X from one token": ("mru-text", (FAST, *NARROW_MRU, f"{MIXER}.conv=0")),
    "mru, narrow, X from one token, 64 heads of 2 x 2": (
        "mru-text",
        (FAST, *NARROW_MRU, f"{MIXER}.conv=0", f"{MIXER}.heads=64", f"{HIDDEN}=316"),
    ),
    "mru, narrow, X from one token, rate 2e-3": (
        "mru-text",
        (f"{RATE}=2.0e-3", *NARROW_MRU, f"{MIXER}.conv=0"),
    ),
    **{
        f"mru, {what} at {factor:g} times the rate": ("mru-text", (FAST, f"{HIDDEN}=92", rate(parameters, factor)))
        for what, parameters, factors in (
            ("X", "*.mixer.up.weight", (0.1, 0.3, 3)),
            ("forget gate", "*.mixer.forget*", (0.3, 3)),
        )
        for factor in factors
    },
    "conv": ("conv", ()),
    "conv, rate 4e-3": ("conv", (FAST,)),
    "conv, wide, rate 4e-3": ("conv-wide", (FAST,)),
    "conv, wide, larger start, rate 4e-3": ("conv-text", (FAST,)),
    "conv, wide, larger start, filter at 0.3 times the rate": ("conv-text", (FAST, rate("*.mixer.conv.weight", 0.3))),
    "conv, wide, larger start, input at 0.3 times the rate": ("conv-text", (FAST, rate("*.mixer.input.weight", 0.3))),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the directory of the runs and their results")
    parser.add_argument("--text", type=Path, required=True, help="tiny Shakespeare as a file")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=ROWS, metavar="NAME")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    text = options.out / "text.txt"
    whole = options.text.read_bytes().decode("utf-8")
    text.write_bytes(whole[: int(len(whole) * 0.9)].encode("utf-8"))
    print(
        "| model | parameters | " + " | ".join(f"nats, windows of {w:,}" for w in WINDOWS) + " |\n|---|---:|---:|---:|"
    )
    for name in options.rows:
        result = run_once(name, options.out, text, options.steps, options.seed)
        losses = " | ".join(f"{result['nats'][str(w)]:.3f}" for w in WINDOWS)
        print(f"| {name} | {result['parameters']:,} | {losses} |", flush=True)


def run_once(name: str, out: Path, text: Path, steps: int, seed: int) -> dict:
    """Trains and evaluates the model of one row, unless it has a result."""
    directory = out / f"{''.join(c if c.isalnum() else '-' for c in name)}-{steps}-{seed}"
    path = directory.with_suffix(".json")
    if not path.exists():
        base, overrides = ROWS[name]
        settings = [
            f"data.files=[{text.resolve()}]",
            f"seed={seed}",
            f"training.steps={steps}",
            "training.rates=[]",
            *overrides,
        ]
        run = start(directory, load_config(CONFIGS / f"{base}.yaml", settings))
        train(run)
        model, corpus = load_model(run), open_corpus(run.data)
        losses = {str(w): validation_loss(model, corpus, w).nats_per_token for w in WINDOWS}
        parameters = sum(p.numel() for p in model.parameters())
        path.write_text(json.dumps({"row": name, "seed": seed, "parameters": parameters, "nats": losses}) + "\n")
    return json.loads(path.read_text())


if __name__ == "__main__":
    main()
