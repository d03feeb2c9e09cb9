"""What every mixer promises, and the parts of that promise that can be written once."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from matrixstate.errors import ConfigError, ShapeError, require

State = Any  # a NamedTuple of tensors, of further such tuples, or of None where an option is off


class About(NamedTuple):
    """What there is to know of a mixer before it is made; `matrixstate list` prints it."""

    recurrence: str
    """The update and the read-out, in the letters of the docs."""
    state: str
    """The shape of what one sequence carries, in the names of the options."""
    op: str | None
    """The op it runs on, a key of `ops.OPS`; None for plain PyTorch."""
    source: str
    """Who wrote it down first."""
    forms: tuple[str, ...] = ("chunked", "step")
    """How it can be computed: "parallel" over the sequence, "chunked", or "step" by step."""


@dataclasses.dataclass(frozen=True)
class MixerConfig(ABC):
    """The options of a mixer. Frozen; checked when made; knows nothing of the model's width."""

    about: ClassVar[About] = About("not described", "not described", None, "not named", ("step",))

    @abstractmethod
    def make(self, width: int) -> "Mixer":
        """A mixer for inputs of `width` channels.

        Raises ConfigError where the options and the width do not fit together.
        """

    def fitted(self, width: int) -> Self:
        """The same options, with those left open that would not fit `width` by default set to what does."""
        return self


class Mixer(nn.Module, ABC):
    """Mixes along the sequence.

    Made as `MRU(256, heads=8)`, `MRU(256, MRUConfig(heads=8))` or `MRUConfig(heads=8).make(256)`; its options are in
    `config`. Called as `y, state = mixer(x, state=None, *, mask=None, reset=None)`, with x and y [B, T, width]; mask
    [B, T] bool is True at real steps and reset [B, T] bool is True where a document starts. The result is a pair, as
    of `torch.nn.GRU` with `batch_first=True`, and the state goes into the next call.

    A padded step (of finite numbers) changes no part of the state and no other step's output; its own output means
    nothing. Splitting the sequence anywhere and passing the state on changes nothing. The last projection is called
    `output`, so that a model can scale it with its depth.
    """

    output: nn.Linear

    @abstractmethod
    def forward(
        self, x: Tensor, state: State = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """x [B, T, width] -> y [B, T, width] and the state after the last step."""

    @abstractmethod
    def init_state(self, batch: int) -> State:
        """The state before anything was seen, for `batch` rows."""

    @abstractmethod
    def mixing_flops(self, length: int) -> int:
        """Floating-point operations per token beyond the weight matrices, over a sequence of `length`."""

    def state_matrices(self, state: State) -> "StateMatrices | None":
        """What a thermometer reads of a state; None (the default) for mixers without a matrix state."""
        return None

    def state_bytes(self, length: int) -> int:
        """Bytes of state per row after `length` tokens. Does not depend on `length` for a recurrent mixer."""
        return sum(leaf.numel() * leaf.element_size() for leaf in state_leaves(self.init_state(1)))


C = TypeVar("C", bound=MixerConfig)


def make_config(kind: type[C], width: int, config: C | None, options: Mapping[str, Any]) -> C:
    """The config of a mixer made as `Mixer(width, config)` or `Mixer(width, **options)`.

    Raises ConfigError with a sentence per unknown option (and the nearest known one), wrong type or wrong value.
    """
    name = kind.__name__.removesuffix("Config")
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise ConfigError(f"{name}: width: expected a whole number from 1 on, got {width!r}")
    if config is not None:
        given = ", ".join(options)
        require((not options, f"{name}: expected a config or options, got a config and {given}"))
        return config
    from matrixstate.configs import decode  # here, so that layers and models import without PyYAML

    try:
        return decode(kind, dict(options), {}).fitted(width)
    except ConfigError as error:
        raise ConfigError(f"{name}: {problem}" for problem in error.problems) from None


class StateMatrices(NamedTuple):
    """The matrices of a state, one per row and head."""

    matrix: Tensor  # [B, H, R, D], as stored
    log_scale: Tensor | None = None  # [B, H], natural logarithm of what multiplies it
    product: bool = False  # a bare product of matrices, which starts as the identity
    squashed: bool = False  # a tanh keeps the entries within (-1, 1)


def map_state(change: Callable[[Tensor], Tensor], state: State) -> State:
    """The same state with `change` applied to every tensor."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return change(state)
    parts = [map_state(change, part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)


def state_leaves(state: State) -> list[Tensor]:
    """Every tensor of a state, in order."""
    leaves: list[Tensor] = []
    map_state(lambda leaf: leaves.append(leaf) or leaf, state)
    return leaves


def check_inputs(
    name: str, x: Tensor, width: int, mask: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Checks what every mixer takes; returns `x` and `reset` without what padded steps hold.

    Padding may be memory that was never written: a NaN in it is replaced here, since a product with zero would keep it.
    """
    if x.ndim != 3 or x.shape[-1] != width or not x.is_floating_point():
        raise ShapeError(f"{name}: x must be floating point [B, T, {width}], got {x.dtype} {list(x.shape)}")
    for what, flags in (("mask", mask), ("reset", reset)):
        if flags is not None and (flags.shape != x.shape[:2] or flags.dtype != torch.bool):
            raise ShapeError(
                f"{name}: {what} must be torch.bool {list(x.shape[:2])}, got {flags.dtype} {list(flags.shape)}"
            )
    return silence(x, mask), reset if reset is None or mask is None else reset & mask


def is_one_step(mixer: nn.Module, x: Tensor, mask: Tensor | None, reset: Tensor | None) -> bool:
    """Whether the mixer may take its shortest way: one token per row, no gradient, and nobody listens to its parts."""
    return (
        x.shape[1] == 1
        and mask is None
        and reset is None
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not any(part._forward_hooks or part._forward_pre_hooks for part in mixer.children())
        and _is_at_hand(mixer, x.device)
    )


def _is_at_hand(mixer: nn.Module, device: torch.device) -> bool:
    """Whether all parameters are on `device`; those of an offloaded module arrive when its forward is called."""
    modules = (mixer, *mixer.children())
    return all(p is None or p.device == device for module in modules for p in module._parameters.values())


def require_width(name: str, width: int, divisor: int, what: str) -> None:
    """The model's width must be a multiple of `divisor`."""
    if width % divisor:
        raise ConfigError(f"{name}: width must be a multiple of {what} = {divisor}, got {width}")


def at_least(low: int, config: MixerConfig, *names: str) -> list[tuple[bool, str]]:
    """For `require`: every named option is `low` or more."""
    values = {name: getattr(config, name) for name in names}
    return [(n >= low, f"{name}: expected at least {low}, got {n}") for name, n in values.items()]


def one_of(config: MixerConfig, name: str, *choices: str) -> tuple[bool, str]:
    """For `require`: the named option is one of the choices."""
    value = getattr(config, name)
    return value in choices, f"{name}: expected one of {', '.join(choices)}, got {value!r}"


def positive(config: MixerConfig, *names: str) -> list[tuple[bool, str]]:
    """For `require`: every named option is a finite number above 0."""
    values = {name: getattr(config, name) for name in names}
    return [(0 < x < math.inf, f"{name}: expected a positive number, got {x}") for name, x in values.items()]


def expect_divisor(heads: int, config: MixerConfig, name: str) -> tuple[bool, str]:
    """For `require`: the named head count, if given, divides `heads`."""
    n = getattr(config, name)
    fits = n is None or (n > 0 and (heads <= 0 or heads % n == 0))
    return fits, f"{name}: expected a divisor of {heads}, got {n}"


def silence(x: Tensor, mask: Tensor | None) -> Tensor:
    """x [B, T, ...] with zeros at the steps where mask [B, T] is False: a write or a log decay that changes nothing."""
    return x if mask is None else x.masked_fill(~mask.view(*mask.shape, *[1] * (x.ndim - 2)), 0)
