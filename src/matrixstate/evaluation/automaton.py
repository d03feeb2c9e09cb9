"""Recovery of the automaton that a model of a word problem computes, from its states or its answers."""

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

BURN_IN = 8  # steps left out at the start of a sequence, where states may differ from those later on
SAMPLE = 2000  # states that are clustered; the others are assigned to the nearest centre
SHOWN = 1500  # states in the figure
MIN_SILHOUETTE = 0.3  # from which on states count as clustered,
MIN_AGREEMENT = 0.9  # if this share of the steps also follows the recovered transitions
FACTORS = [2 ** (k / 4) for k in range(-4, 9)]  # numbers of clusters tried, per element of the group
MAX_PAIRS = 128  # clusters tried at most for pairs of element and token
VISITS = 20  # of each transition, on average,
MIN_STEPS = 2**14  # and steps in all, which also covers clusters that are pairs of element and token


@dataclass(frozen=True)
class Automaton:
    """The automaton recovered from a model of the word problem of a group with n elements."""

    group: Group
    """The group of the task."""
    layer: int
    """The layer whose states were clustered, counted from 0."""
    clusters: int
    """C, clusters of states before equivalent ones are merged."""
    silhouette: float
    """Of the clusters, from -1 to 1."""
    purity: float
    """Share of states whose true element is the most frequent one of their cluster."""
    accuracy: float
    """Share of right answers of the model on the sequences read."""
    source: str
    """What the automaton was made from: "states", or "answers" where the states do not cluster."""
    states: int
    """States of the automaton after equivalent ones are merged."""
    agreement: float
    """Share of steps that follow the most frequent transition from their state with their token."""
    table: Ints
    """[n, n], the recovered multiplication; -1 where an element has no state or a transition was never seen."""
    points: NDArray[np.float64]
    """[N, 2], some of the states in their first two principal components."""
    elements: Ints
    """[N], the true element of each point."""
    centres: NDArray[np.float64]
    """[C, 2], of the clusters, in the same components."""

    @property
    def right(self) -> int:
        """How many of the n² entries of the table are those of the group."""
        return int((self.table == self.group.table).sum())

    @property
    def is_group(self) -> bool:
        """Whether the table is the multiplication of a group."""
        return is_group(self.table)

    @property
    def isomorphic(self) -> bool:
        """Whether the table is that of the group up to the names of the elements."""
        return self.right == self.table.size or isomorphism(self.group, self.table) is not None

    def verdict(self) -> str:
        """The result in a sentence or two."""
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
        """Everything but the points as plain data, for JSON."""
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
    """Recover the automaton that a layer of `model` computes on held-out sequences.

    1. The states of the layer are clustered by k-means, without the true elements.
    2. The successor of a cluster for a token is the most frequent one. Equivalent clusters, with the same answers after
       every sequence of tokens, are merged.
    3. If the silhouette is below 0.3, or less than 90% of the steps follow these transitions, the answers of the model
       take the place of the clusters.
    4. The start is the state that most often answers with the identity. Every other state is named by the product of
       the shortest sequence of tokens that leads to it from the start. The entry i·j of the table is the name of the
       state that the token j leads to from i, or the shortest sequence for j where j is no token.

    Args:
        model: put in evaluation mode.
        task: a word problem.
        length: steps of each sequence, at least 4.
        layer: counted from 0. Default: the last with a mixer.
        sequences: how many. Default: as many as take every transition about 20 times, and at least 16,384 steps.
        seed: of the sequences and of k-means.

    Raises:
        ConfigError: another task, length or layer, or a layer whose state grows with the sequence.
        DataError: states that are not finite.
    """
    if not isinstance(task, WordProblemConfig):
        raise ConfigError(f"automaton: expected a model of a word problem, got one of {type(task).__name__}")
    if length < 4 or (sequences is not None and sequences < 1):
        raise ConfigError(
            f"automaton: expected a length of at least 4 and at least 1 sequence, got {length} and {sequences}"
        )
    layer = _recurrent_layer(model, layer)
    alphabet, true_group = task.alphabet(), group(task.group)
    count = sequences or -(-max(MIN_STEPS, VISITS * true_group.order * len(alphabet)) // length)  # rounded up
    tokens, _ = task.at(seed, HELD_OUT, count, length)
    states, all_answers = _read(model.eval(), tokens, layer)
    products = running_products(true_group, tokens.numpy())
    first = min(BURN_IN, length // 2)
    inputs, truth, answers = tokens.numpy()[:, first:], products[:, first:], all_answers[:, first:]
    flat = states[:, first:].flatten(0, 1)
    flat = flat - flat.mean(dim=0)
    generator = torch.Generator().manual_seed(seed)
    sample = flat[torch.randperm(len(flat), generator=generator)[:SAMPLE]]
    pairs = min(true_group.order * len(alphabet), MAX_PAIRS)  # for states that depend on the last token as well
    counts = sorted({pairs, *(max(2, round(true_group.order * factor)) for factor in FACTORS)})
    clusters = cluster(sample, [k for k in counts if k <= len(sample)], generator)
    labels = nearest(flat, clusters.centres).view(truth.shape).numpy()
    source, machine = "states", _MooreMachine(labels, answers, inputs, alphabet)
    if clusters.silhouette < MIN_SILHOUETTE or machine.agreement < MIN_AGREEMENT:
        source, machine = "answers", _MooreMachine(answers, answers, inputs, alphabet)
    components = torch.linalg.eigh(sample.double().T @ sample.double())[1][:, -2:].flip(1)  # eigenvalues ascend
    return Automaton(
        group=true_group,
        layer=layer,
        clusters=len(clusters.centres),
        silhouette=clusters.silhouette,
        purity=_purity(labels, truth),
        accuracy=float((all_answers == products).mean()),
        source=source,
        states=machine.states,
        agreement=machine.agreement,
        table=machine.table(true_group),
        points=(flat[:SHOWN].double() @ components).numpy(),
        elements=truth.reshape(-1)[:SHOWN],
        centres=(clusters.centres @ components).numpy(),
    )


def _recurrent_layer(model: LanguageModel, layer: int | None) -> int:
    """The layer to read. Raises ConfigError if it has no mixer or its state grows with the sequence."""
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
    """The states [N, T, F] of a layer after every token of tokens [N, T], and the most likely answers [N, T]."""
    state, features, answers = None, [], []
    mixer = model.layers[layer].mixer
    assert mixer is not None
    for t in range(tokens.shape[1]):
        logits, state = model(tokens[:, t : t + 1].to(model.device), state)
        matrices = mixer.state_matrices(state.blocks[layer])
        if matrices is not None and matrices.product:  # the scale of a product is arbitrary
            norm = torch.linalg.matrix_norm(matrices.matrix, keepdim=True).clamp_min(1e-30)
            features.append((matrices.matrix / norm).flatten(1).cpu())
        else:
            features.append(_features(state.blocks[layer]).cpu())
        answers.append(logits[:, 0].argmax(dim=-1).cpu())
    states = torch.stack(features, dim=1).float()
    if not bool(states.isfinite().all()):
        raise DataError(f"automaton: expected finite states, got some of layer {layer} that are not")
    return states, torch.stack(answers, dim=1).numpy()


def _features(state: State) -> Tensor:
    """The state of a mixer's recurrence as vectors [N, F], without that of its convolution."""
    recurrent = getattr(state, "scan", state)
    return torch.cat([leaf.flatten(1) for leaf in state_leaves(recurrent) if leaf.is_floating_point()], dim=1)


def _purity(labels: Ints, truth: Ints) -> float:
    """Share of states whose element is the most frequent one of their cluster."""
    counts = np.zeros((labels.max() + 1, truth.max() + 1), dtype=np.int64)
    np.add.at(counts, (labels, truth), 1)
    return float(counts.max(axis=1).sum() / counts.sum())


class _MooreMachine:
    """The automaton with the most frequent transitions and answers of labelled states, equivalent states merged.

    Args:
        labels: [N, T], the state after each step.
        answers: [N, T], the answer of each step.
        tokens: [N, T], the token of each step.
        alphabet: all tokens. A letter below is the index of a token in the alphabet.
    """

    def __init__(self, labels: Ints, answers: Ints, tokens: Ints, alphabet: Ints) -> None:
        order = np.argsort(alphabet)
        letters = order[np.searchsorted(alphabet, tokens, sorter=order)]
        labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
        outputs = _count_answers(labels, answers).argmax(axis=1)
        _, successors = _transitions(labels, letters, len(alphabet))
        labels = _merge(successors, outputs)[labels]
        self.states, self.alphabet = int(labels.max()) + 1, alphabet
        self.agreement, self.successors = _transitions(labels, letters, len(alphabet))
        counts = _count_answers(labels, answers)
        self.start = int((counts[:, 0] / counts.sum(axis=1).clip(1)).argmax())  # the identity is element 0

    def table(self, group: Group) -> Ints:
        """[n, n], the multiplication in the names of the group's elements; -1 where it is not known."""
        names = {self.start: 0}  # state -> element
        words = {0: (), **{int(element): (letter,) for letter, element in enumerate(self.alphabet)}}
        queue = [self.start]
        for state in queue:  # breadth first, so that the words are the shortest
            for letter, element in enumerate(self.alphabet):
                successor, name = int(self.successors[state, letter]), int(group.table[names[state], element])
                if successor >= 0 and successor not in names:
                    names[successor] = name
                    words.setdefault(name, (*words[names[state]], letter))
                    queue.append(successor)
        states = {name: state for state, name in reversed(names.items())}  # of several with a name, the nearest
        table = np.full((group.order, group.order), -1)
        for i, state in states.items():
            for j, word in words.items():
                table[i, j] = names.get(self._follow(state, word), -1)
        return table

    def _follow(self, state: int, word: tuple[int, ...]) -> int:
        """The state that the letters of `word` lead to from `state`; -1 if a transition was never seen."""
        for letter in word:
            state = int(self.successors[state, letter]) if state >= 0 else -1
        return state


def _count_answers(labels: Ints, answers: Ints) -> Ints:
    """[C, answers], how often each answer was given in each state."""
    counts = np.zeros((labels.max() + 1, answers.max() + 1), dtype=np.int64)
    np.add.at(counts, (labels, answers), 1)
    return counts


def _transitions(labels: Ints, letters: Ints, size: int) -> tuple[float, Ints]:
    """The most frequent successors [C, letters], -1 where there is none, and the share of steps that lead to them."""
    states = int(labels.max()) + 1
    counts = np.zeros((states, size, states), dtype=np.int64)
    np.add.at(counts, (labels[:, :-1], letters[:, 1:], labels[:, 1:]), 1)
    most = counts.max(axis=2)
    return float(most.sum() / counts.sum()), np.where(most > 0, counts.argmax(axis=2), -1)


def _merge(successors: Ints, outputs: Ints) -> Ints:
    """[C], the class of each state. States are equivalent if they give the same answers after every sequence.

    By Moore's partition refinement: classes of equal answers are split by the classes of their successors until none
    is split any more.
    """
    classes = np.unique(outputs, return_inverse=True)[1]
    while True:
        after = np.where(successors < 0, -1, classes[successors])
        finer = np.unique(np.column_stack([classes, after]), axis=0, return_inverse=True)[1].reshape(-1)
        if finer.max() == classes.max():
            return finer
        classes = finer
