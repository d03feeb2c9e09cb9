"""The interface of mixers and their configs, and helpers to implement it: checks of inputs and options, states."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from matrixstate.errors import ConfigError, ShapeError, require

State = Any  # a tensor, None, or a NamedTuple of states; None stands for a part that an option leaves out


class About(NamedTuple):
    """A mixer in a few lines of text, as `matrixstate list` prints them."""

    recurrence: str
    """The update of the state and the read-out, as equations."""
    state: str
    """The shape of one sequence's state, in terms of the options."""
    op: str | None
    """The op that computes it, a key of `ops.OPS`; None for plain PyTorch."""
    source: str
    """The paper or repository that the mixer comes from."""
    forms: tuple[str, ...] = ("chunked", "step")
    """The forms it can be computed in: "parallel" over the sequence, "chunked", or "step" by step."""


@dataclasses.dataclass(frozen=True)
class MixerConfig(ABC):
    """The options of a mixer, without the model's width. Subclasses are frozen dataclasses that check their options.

    Raises ConfigError, with all problems at once, where options are out of range.
    """

    about: ClassVar[About] = About("not described", "not described", None, "not named", ("step",))

    @abstractmethod
    def make(self, width: int) -> "Mixer":
        """A mixer for inputs of `width` channels. Raises ConfigError if the options do not fit the width."""

    def fitted(self, width: int) -> Self:
        """The same options, with values that fit `width` for those left at None whose default would not fit."""
        return self


class Mixer(nn.Module, ABC):
    """Base class of all mixers: modules that mix along the sequence, causally unless they say otherwise.

    Made as `MRU(256, heads=8)`, `MRU(256, MRUConfig(heads=8))` or `MRUConfig(heads=8).make(256)`, with its options in
    `config`. Called as `y, state = mixer(x, state=None, *, mask=None, reset=None)`; the result is a pair, as that of
    `torch.nn.GRU` with `batch_first=True`, and the state is passed to the next call.

    Every mixer guarantees:

    - A sequence may be split anywhere: the parts, with the state passed on, give what the whole gives.
    - A padded step changes neither the state nor the output of any other step, whatever x holds there. Its own output
      is undefined.
    - A document that starts with `reset` gives what it gives alone.
    - Axis 0 of every tensor of a state is the batch, and those of floating point are at least float32.

    The last projection is called `output`, for the model scales its weights with the depth.
    """

    output: nn.Linear

    @abstractmethod
    def forward(
        self, x: Tensor, state: State = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Mix x along the sequence.

        Args:
            x: [B, T, width] floating point, T >= 0.
            state: what the last call returned. Default: the state of `init_state`.
            mask: [B, T] bool, True at real steps. Default: all are real.
            reset: [B, T] bool, True where a document starts: the state is reset before that step. Default: nowhere.

        Returns:
            y: [B, T, width].
            state: the state after the last step.

        Raises:
            ShapeError: another shape or dtype.
        """

    @abstractmethod
    def init_state(self, batch: int) -> State:
        """The state before the first step, for `batch` rows."""

    @abstractmethod
    def mixing_flops(self, length: int) -> int:
        """Floating-point operations per token in a sequence of `length`, without those of the weight matrices."""

    def state_matrices(self, state: State) -> "StateMatrices | None":
        """The matrices of a state, for inspection; None (the default) for mixers without a matrix state."""
        return None

    def state_bytes(self, length: int) -> int:
        """Bytes of one row's state after `length` tokens. Independent of `length` for a recurrent mixer."""
        return sum(leaf.numel() * leaf.element_size() for leaf in state_leaves(self.init_state(1)))


C = TypeVar("C", bound=MixerConfig)


def make_config(kind: type[C], width: int, config: C | None, options: Mapping[str, Any]) -> C:
    """The config of a mixer that is made as `Mixer(width, config)` or `Mixer(width, **options)`.

    Raises ConfigError with one problem per unknown option (naming the nearest known one), wrong type or wrong value.
    """
    name = kind.__name__.removesuffix("Config")
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise ConfigError(f"{name}: width: expected a whole number of at least 1, got {width!r}")
    if config is not None:
        given = ", ".join(options)
        require((not options, f"{name}: expected a config or options, got a config and {given}"))
        return config
    from matrixstate.configs import decode  # imported late: layers and models work without PyYAML

    try:
        return decode(kind, dict(options), {}).fitted(width)
    except ConfigError as error:
        raise ConfigError(f"{name}: {problem}" for problem in error.problems) from None


class StateMatrices(NamedTuple):
    """The matrices of a state, one per row and head."""

    matrix: Tensor  # [B, H, R, D], as stored
    log_scale: Tensor | None = None  # [B, H], natural logarithm of a factor of the matrix
    product: bool = False  # a product of matrices to which nothing is added; starts as the identity
    squashed: bool = False  # entries are within (-1, 1), by a tanh


def map_state(change: Callable[[Tensor], Tensor], state: State) -> State:
    """A state of the same structure with `change` applied to every tensor."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return change(state)
    parts = [map_state(change, part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)


def state_leaves(state: State) -> list[Tensor]:
    """The tensors of a state, in order."""
    leaves: list[Tensor] = []
    map_state(lambda leaf: leaves.append(leaf) or leaf, state)  # append returns None
    return leaves


def check_inputs(
    name: str, x: Tensor, width: int, mask: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Check the inputs of a mixer, and return `x` with zeros and `reset` with False at padded steps.

    Padding may hold NaN, which a later product with zero would not remove.

    Raises:
        ShapeError: x is not [B, T, width] floating point, or mask or reset not [B, T] bool.
    """
    if x.ndim != 3 or x.shape[-1] != width or not x.is_floating_point():
        raise ShapeError(f"{name}: x must be floating point [B, T, {width}], got {x.dtype} {list(x.shape)}")
    for what, flags in (("mask", mask), ("reset", reset)):
        if flags is not None and (flags.shape != x.shape[:2] or flags.dtype != torch.bool):
            raise ShapeError(
                f"{name}: {what} must be torch.bool {list(x.shape[:2])}, got {flags.dtype} {list(flags.shape)}"
            )
    return zero_padding(x, mask), reset if reset is None or mask is None else reset & mask


def is_one_step(mixer: nn.Module, x: Tensor, mask: Tensor | None, reset: Tensor | None) -> bool:
    """Whether a mixer may use its fused op for one token per row: no padding, no gradients, no hooks on its parts."""
    return (
        x.shape[1] == 1
        and mask is None
        and reset is None
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not any(part._forward_hooks or part._forward_pre_hooks for part in mixer.children())
        and _has_parameters_on(mixer, x.device)
    )


def _has_parameters_on(mixer: nn.Module, device: torch.device) -> bool:
    """Whether all parameters are on `device`. Those of an offloaded module are there only during its forward."""
    modules = (mixer, *mixer.children())
    return all(p is None or p.device == device for module in modules for p in module._parameters.values())


def require_width(name: str, width: int, divisor: int, what: str) -> None:
    """Raise ConfigError unless `width` is a multiple of `divisor`, which the message calls `what`."""
    if width % divisor:
        raise ConfigError(f"{name}: width must be a multiple of {what} = {divisor}, got {width}")


def at_least(low: int, config: MixerConfig, *names: str) -> list[tuple[bool, str]]:
    """For `require`: every named option is at least `low`."""
    values = {name: getattr(config, name) for name in names}
    return [(n >= low, f"{name}: expected at least {low}, got {n}") for name, n in values.items()]


def one_of(config: MixerConfig, name: str, *choices: str) -> tuple[bool, str]:
    """For `require`: the named option is one of the choices."""
    value = getattr(config, name)
    return value in choices, f"{name}: expected one of {', '.join(choices)}, got {value!r}"


def positive(config: MixerConfig, *names: str) -> list[tuple[bool, str]]:
    """For `require`: every named option is a finite number above 0, or None."""
    values = {name: x for name in names if (x := getattr(config, name)) is not None}
    return [(0 < x < math.inf, f"{name}: expected a positive number, got {x}") for name, x in values.items()]


def at_least_zero(config: MixerConfig, name: str) -> tuple[bool, str]:
    """For `require`: the named option is a finite number of 0 or more."""
    x = getattr(config, name)
    return 0 <= x < math.inf, f"{name}: expected 0 or more, got {x}"


def fraction(config: MixerConfig, name: str) -> tuple[bool, str]:
    """For `require`: the named option is a number from 0 to 1."""
    x = getattr(config, name)
    return 0 <= x <= 1, f"{name}: expected a number from 0 to 1, got {x}"


def expect_divisor(heads: int, config: MixerConfig, name: str) -> tuple[bool, str]:
    """For `require`: the named number of heads, if not None, divides `heads`."""
    n = getattr(config, name)
    fits = n is None or (n > 0 and (heads <= 0 or heads % n == 0))
    return fits, f"{name}: expected a divisor of {heads}, got {n}"


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """x [B, T, ...] with zeros where mask [B, T] is False: there a write or a log decay leaves the state as it is."""
    return x if mask is None else x.masked_fill(~mask.view(*mask.shape, *[1] * (x.ndim - 2)), 0)
