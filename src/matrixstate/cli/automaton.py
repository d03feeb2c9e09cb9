"""`matrixstate automaton`."""

from pathlib import Path

from tyro.conf import Positional

from matrixstate.cli.output import print_json, print_table
from matrixstate.cli.places import expect_figure
from matrixstate.cli.train import set_threads
from matrixstate.devices import find_device
from matrixstate.evaluation.automaton import Automaton, recover_automaton
from matrixstate.evaluation.automaton_figure import WRITTEN, draw_automaton
from matrixstate.training.tasks import load_task_model


def automaton(
    run: Positional[Path],
    *,
    layer: int | None = None,
    length: int | None = None,
    sequences: int | None = None,
    figure: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Recover the multiplication table that a model of a word problem has learned, from its states alone.

    Clusters the states after every token of fresh sequences, takes the transitions between clusters as an automaton,
    and compares its multiplication table with the group's.

    Args:
        run: The directory of a run on a word problem.
        layer: The layer whose states are clustered, counted from 0. Default: the last with a mixer.
        length: Steps per sequence. Default: the training length.
        sequences: Number of sequences. Default: enough for every transition to occur about twenty times.
        figure: The file for a figure of states and tables. Default: automaton.png in the run.
        seed: Of the sequences and the clustering.
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        threads: Number of threads. Default: PyTorch's choice.
        json: Print one JSON object; draw a figure only with --figure.
    """
    place = find_device(device)
    set_threads(threads)
    expect_figure(figure)
    model, config = load_task_model(run, place)
    found = recover_automaton(
        model,
        config.data,
        length=config.training.length if length is None else length,
        layer=layer,
        sequences=sequences,
        seed=seed,
    )
    if json:
        print_json(found.data())
        if figure is not None:
            draw_automaton(found, figure)
        return 0
    _print_table(found)
    print(found.verdict())
    figure = figure or run / "automaton.png"
    draw_automaton(found, figure)
    print(figure)
    return 0


def _print_table(found: Automaton) -> None:
    n = found.group.order
    title = f"{found.group.name} from {found.source}"
    if n <= WRITTEN:
        rows = [(i, *(_shown(found, i, j) for j in range(n))) for i in range(n)]
        print_table(("i \\ j", *map(str, range(n))), rows, title)
        return
    known = int((found.table >= 0).sum())
    print_table(
        ("", title),
        [
            ("products right", f"{found.right:,} of {n * n:,}"),
            ("products known", f"{known:,}"),
            ("a group", "yes" if found.is_group else "no"),
            ("isomorphic", "yes" if found.isomorphic else "no"),
            ("clusters", found.clusters),
            ("purity", f"{found.purity:.1%}"),
            ("steps that agree", f"{found.agreement:.1%}"),
            ("right answers", f"{found.accuracy:.1%}"),
        ],
    )


def _shown(found: Automaton, i: int, j: int) -> str:
    """An entry of the table, followed by the right one if they differ."""
    ours, true = int(found.table[i, j]), int(found.group.table[i, j])
    return str(ours) if ours == true else f"{'?' if ours < 0 else ours}≠{true}"
