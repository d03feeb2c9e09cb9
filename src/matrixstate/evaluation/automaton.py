"""Which automaton a model has learned: its states' clusters, the steps between them, and the table they make."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matrixstate.data.tasks import Group, TaskConfig, WordProblemConfig, group, is_group, isomorphism, running_products
from matrixstate.data.tasks.task import Ints
from matrixstate.errors import ConfigError, DataError
from matrixstate.evaluation.clusters import cluster, nearest
from matrixstate.evaluation.tracking import HELD_OUT
from matrixstate.layers.mixer import State, state_leaves
from matrixstate.models import LanguageModel

SETTLING = 8  # steps at most that a state may take from the start to where it moves later
SAMPLE = 2000  # states from which clusters are found; the others go to the nearest
SHOWN = 1500  # states drawn
CLUSTERED = 0.3  # the silhouette from which on states are said to cluster,
LAWFUL = 0.9  # if this share of the steps also goes from cluster to cluster by a rule
FACTORS = [2 ** (k / 4) for k in range(-4, 9)]  # how many clusters are tried, per element of the group
MOST = 128  # clusters tried for pairs of element and token
VISITS = 20  # how often every step from every element is to be seen, on average,
LEAST = 2**14  # and how many steps in all, so that those from pairs of element and token are


@dataclass(frozen=True)
class Automaton:
    """The automaton that a model of the word problem of a group of n elements runs. C clusters of states."""

    group: Group
    layer: int
    clusters: int
    """C, before clusters that no sequence tells apart are merged."""
    silhouette: float
    purity: float
    """Share of states that are of their cluster's most frequent element."""
    accuracy: float
    """Share of right answers over the sequences that were read."""
    source: str
    """What the automaton was made of: "states", or "answers" where the states do not cluster."""
    states: int
    """States of the automaton once those are merged that no sequence tells apart."""
    agreement: float
    """Share of steps that go where most go from that state with that token."""
    table: Ints
    """[n, n], the recovered multiplication; -1 where an element has no state or a step was never seen."""
    points: NDArray[np.float64]
    """[N, 2], some of the states in the plane of their largest variance."""
    elements: Ints
    """[N], the true element of each point."""
    centres: NDArray[np.float64]
    """[C, 2]."""

    @property
    def right(self) -> int:
        """How many of the n² entries are those of the group."""
        return int((self.table == self.group.table).sum())

    @property
    def is_group(self) -> bool:
        return is_group(self.table)

    @property
    def isomorphic(self) -> bool:
        """Whether the recovered table is the group's up to names."""
        return self.right == self.table.size or isomorphism(self.group, self.table) is not None

    def verdict(self) -> str:
        """What was found, in a sentence or two."""
        name, n, total = self.group.name, self.group.order, self.table.size
        if self.source == "states":
            first = f"the states form {self.clusters} clusters, purity {self.purity:.1%}"
        else:
            first = f"the states do not cluster ({self.clusters} clusters, purity {self.purity:.1%}); its answers show:"
        if self.states != self.clusters and self.source == "states":
            first += f", {self.states} of which differ in what follows"
        if self.right == total:
            found = f"the automaton is {name}: all {total:,} products of {n} elements are right"
        elif self.isomorphic:
            found = f"the automaton is {name} under other names"
        else:
            kind = "another group" if self.is_group else "no group"
            found = f"the automaton is {kind}: {self.right:,} of the {total:,} products of {name} are right"
        join = " " if self.source == "answers" else "; "
        return f"{first}{join}{found}; {self.agreement:.1%} of the steps follow it."

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON; the points are left out."""
        names = ("layer", "clusters", "silhouette", "purity", "accuracy", "source", "states", "agreement", "right")
        plain = {name: getattr(self, name) for name in names}
        more = {"is_group": self.is_group, "isomorphic": self.isomorphic, "verdict": self.verdict()}
        return {"group": self.group.name, **plain, **more, "table": self.table.tolist()}


@torch.no_grad()
def recover_automaton(
    model: LanguageModel,
    task: TaskConfig,
    *,
    length: int,
    layer: int | None = None,
    sequences: int | None = None,
    seed: int = 0,
) -> Automaton:
    """Reads fresh sequences token by token and makes an automaton of the states of one layer.

    Clusters are found without looking at elements. A step leads from a cluster where most such steps lead; clusters of
    the same answer and the same successors are merged. Where the silhouette is below 0.3 or less than nine steps of ten
    follow such rules, the model's answers are taken for its states. The start is the state most often answered with
    the identity; every other is named by the product of the fewest tokens that lead there, and i·j is where the token j
    leads from i, or those fewest tokens where j is no token.

    Args:
        model: is put in evaluation mode and left there.
        task: a word problem.
        length: of the sequences, at least 4.
        layer: counted from 0. Default: the last with a mixer.
        sequences: how many. Default: as many as take every step from every element about twenty times, and
            16,384 steps at least.
        seed: of the sequences and of k-means.

    Raises:
        ConfigError: another task, length or layer, or a layer whose state grows.
        DataError: states that are not finite.
    """
    if not isinstance(task, WordProblemConfig):
        raise ConfigError(f"automaton: expected a model of a word problem, got one of {type(task).__name__}")
    if length < 4 or (sequences is not None and sequences < 1):
        raise ConfigError(f"automaton: expected a length of 4 and a sequence at least, got {length} and {sequences}")
    layer = _recurrent_layer(model, layer)
    alphabet, found = task.alphabet(), group(task.group)
    count = sequences or -(-max(LEAST, VISITS * found.order * len(alphabet)) // length)
    tokens, _ = task.at(seed, HELD_OUT, count, length)
    states, answers = _read(model.eval(), tokens, layer)
    products = running_products(found, tokens.numpy())
    settled = min(SETTLING, length // 2)
    read, truth, said = tokens.numpy()[:, settled:], products[:, settled:], answers[:, settled:]
    flat = states[:, settled:].flatten(0, 1)
    flat = flat - flat.mean(dim=0)
    generator = torch.Generator().manual_seed(seed)
    sample = flat[torch.randperm(len(flat), generator=generator)[:SAMPLE]]
    pairs = min(found.order * len(alphabet), MOST)  # where states remember the last token too
    counts = sorted({pairs, *(max(2, round(found.order * factor)) for factor in FACTORS)})
    clusters = cluster(sample, [k for k in counts if k <= len(sample)], generator)
    labels = nearest(flat, clusters.centres).view(truth.shape).numpy()
    source, machine = "states", _Machine(labels, said, read, alphabet)
    if clusters.silhouette < CLUSTERED or machine.agreement < LAWFUL:
        source, machine = "answers", _Machine(said, said, read, alphabet)
    plane = torch.linalg.eigh(sample.double().T @ sample.double())[1][:, -2:].flip(1)
    return Automaton(
        found,
        layer,
        len(clusters.centres),
        clusters.silhouette,
        _purity(labels, truth),
        float((answers == products).mean()),
        source,
        machine.states,
        machine.agreement,
        machine.table(found),
        (flat[:SHOWN].double() @ plane).numpy(),
        truth.reshape(-1)[:SHOWN],
        (clusters.centres @ plane).numpy(),
    )


def _recurrent_layer(model: LanguageModel, layer: int | None) -> int:
    """The layer to read, whose state must not grow."""
    mixers = {i: block.mixer for i, block in enumerate(model.layers) if block.mixer is not None}
    layer = max(mixers, default=-1) if layer is None else layer
    if layer not in mixers:
        known = ", ".join(map(str, mixers)) or "none"
        raise ConfigError(f"automaton: expected a layer with a mixer, one of {known}, got {layer}")
    if mixers[layer].state_bytes(0) != mixers[layer].state_bytes(10_000):
        name = type(mixers[layer]).__name__
        raise ConfigError(f"automaton: expected a layer with a state of constant size, got {name}, whose state grows")
    return layer


def _read(model: LanguageModel, tokens: Tensor, layer: int) -> tuple[Tensor, Ints]:
    """The states [N, T, F] of a layer after every token of [N, T], and the answers [N, T]."""
    state, seen, answers = None, [], []
    mixer = model.layers[layer].mixer
    assert mixer is not None
    for t in range(tokens.shape[1]):
        logits, state = model(tokens[:, t : t + 1], state)
        matrices = mixer.state_matrices(state.blocks[layer])
        if matrices is not None and matrices.product:  # known up to its scale, which says nothing
            norm = torch.linalg.matrix_norm(matrices.matrix, keepdim=True).clamp_min(1e-30)
            seen.append((matrices.matrix / norm).flatten(1))
        else:
            seen.append(_features(state.blocks[layer]))
        answers.append(logits[:, 0].argmax(dim=-1))
    whole = torch.stack(seen, dim=1).float()
    if not bool(whole.isfinite().all()):
        raise DataError(f"automaton: expected finite states, got some of layer {layer} that are not")
    return whole, torch.stack(answers, dim=1).numpy()


def _features(state: State) -> Tensor:
    """What a mixer carries, [N, F], but for the last inputs that a convolution keeps."""
    carried = getattr(state, "scan", state)
    return torch.cat([leaf.flatten(1) for leaf in state_leaves(carried) if leaf.is_floating_point()], dim=1)


def _purity(labels: Ints, truth: Ints) -> float:
    counts = np.zeros((labels.max() + 1, truth.max() + 1), dtype=np.int64)
    np.add.at(counts, (labels, truth), 1)
    return float(counts.max(axis=1).sum() / counts.sum())


class _Machine:
    """The automaton of labelled states [N, T], each of which an answer [N, T] and a token [N, T] belong to."""

    def __init__(self, labels: Ints, answers: Ints, tokens: Ints, alphabet: Ints) -> None:
        order = np.argsort(alphabet)
        letters = order[np.searchsorted(alphabet, tokens, sorter=order)]
        labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
        said = _counts(labels, answers)
        _, successors = _steps(labels, letters, len(alphabet))
        labels = _merge(successors, said.argmax(axis=1))[labels]
        self.states, self.alphabet = int(labels.max()) + 1, alphabet
        self.agreement, self.successors = _steps(labels, letters, len(alphabet))
        said = _counts(labels, answers)
        self.start = int((said[:, 0] / said.sum(axis=1).clip(1)).argmax())

    def table(self, found: Group) -> Ints:
        """[n, n], the multiplication in the names of the group's elements; -1 where it is not known."""
        names = {self.start: 0}
        words = {0: (), **{int(element): (letter,) for letter, element in enumerate(self.alphabet)}}
        reached = [self.start]
        for state in reached:
            for letter, element in enumerate(self.alphabet):
                following, name = int(self.successors[state, letter]), int(found.table[names[state], element])
                if following >= 0 and following not in names:
                    names[following] = name
                    words.setdefault(name, (*words[names[state]], letter))
                    reached.append(following)
        places = {name: state for state, name in reversed(names.items())}
        table = np.full((found.order, found.order), -1)
        for i, state in places.items():
            for j, word in words.items():
                table[i, j] = names.get(self._follow(state, word), -1)
        return table

    def _follow(self, state: int, word: tuple[int, ...]) -> int:
        for letter in word:
            state = int(self.successors[state, letter]) if state >= 0 else -1
        return state


def _counts(labels: Ints, answers: Ints) -> Ints:
    """[C, answers], how often each answer was given in each state."""
    counts = np.zeros((labels.max() + 1, answers.max() + 1), dtype=np.int64)
    np.add.at(counts, (labels, answers), 1)
    return counts


def _steps(labels: Ints, letters: Ints, size: int) -> tuple[float, Ints]:
    """The share of steps that go where most go, and where that is: [C, letters], -1 where none was seen."""
    states = int(labels.max()) + 1
    counts = np.zeros((states, size, states), dtype=np.int64)
    np.add.at(counts, (labels[:, :-1], letters[:, 1:], labels[:, 1:]), 1)
    most = counts.max(axis=2)
    return float(most.sum() / counts.sum()), np.where(most > 0, counts.argmax(axis=2), -1)


def _merge(successors: Ints, outputs: Ints) -> Ints:
    """[C], the class of each state: those of a class answer alike after every sequence (Moore's refinement)."""
    classes = np.unique(outputs, return_inverse=True)[1]
    while True:
        after = np.where(successors < 0, -1, classes[successors])
        finer = np.unique(np.column_stack([classes, after]), axis=0, return_inverse=True)[1].reshape(-1)
        if finer.max() == classes.max():
            return finer
        classes = finer
