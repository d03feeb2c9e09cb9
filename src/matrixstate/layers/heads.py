"""The base of mixers whose state is a matrix of keys by values per head, and the projections of their inputs."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.mixer import Mixer, MixerConfig, StateMatrices, at_least, check_inputs, positive
from matrixstate.layers.projection import projection
from matrixstate.layers.short_conv import ShortConv
from matrixstate.layers.token_shift import TokenShift
from matrixstate.ops import accumulation_dtype


class HeadInputs(nn.Module):
    """One projection of the input, then an optional short convolution with silu, split into inputs such as q, k and v.

    Args:
        width: channels of the input.
        parts: (heads, size) of each output.
        conv: steps of the convolution. 0: no convolution.
        silu: apply silu where there is no convolution.
        bias: whether the convolution has a bias.
        std: standard deviation of the projection's weights at initialisation.
    """

    def __init__(
        self,
        width: int,
        parts: Sequence[tuple[int, int]],
        conv: int,
        *,
        silu: bool = False,
        bias: bool = False,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        self.parts = tuple(parts)
        channels = sum(heads * size for heads, size in parts)
        self.projection = projection(width, channels, std)
        self.conv = ShortConv(channels, conv, bias) if conv else None
        self.silu = silu

    def forward(
        self, x: Tensor, state: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Project, convolve and split x.

        Args:
            x: [B, T, width].
            state: [B, conv-1, channels], the last inputs of the convolution. None: zeros.
            mask: [B, T] bool, True at real steps.
            reset: [B, T] bool, True where a document starts.

        Returns:
            One tensor [B, T, heads, size] per part, all of one dtype, and the state of the convolution (None without).
        """
        mixed, last = self.projection(x), None
        if self.conv is not None:
            mixed, last = self.conv(mixed, state, mask, reset)
        elif self.silu:
            mixed = nn.functional.silu(mixed)
        pieces = mixed.split([heads * size for heads, size in self.parts], dim=-1)
        return [piece.unflatten(-1, part) for piece, part in zip(pieces, self.parts, strict=True)], last

    def init_state(self, batch: int) -> Tensor | None:
        """The state before the first step."""
        return None if self.conv is None else self.conv.init_state(batch)

    @property
    def conv_flops(self) -> int:
        """Floating-point operations of the convolution per token."""
        return 0 if self.conv is None else 2 * self.conv.weight.numel()


def expand_heads(x: Tensor, heads: int) -> Tensor:
    """x [B, T, G, n] -> [B, T, heads, n]: each of the G heads is repeated for a contiguous group."""
    return x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], dim=2)


def l2_normalise(x: Tensor, eps: float = 0.0) -> Tensor:
    """x scaled to Euclidean length 1 along its last axis, in the dtype of x under autocast too.

    With `eps`, which is added to the squared length, vectors that are not much longer than √eps become shorter than 1.
    """
    if eps:
        wide = x.to(accumulation_dtype(x.dtype))
        return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps)).to(x.dtype)
    # the default eps of 1e-12 is zero in float16
    return nn.functional.normalize(x, dim=-1, eps=max(1e-12, torch.finfo(x.dtype).tiny)).to(x.dtype)


class KeyValueState(NamedTuple):
    """What a `KeyValueMixer` carries from one call to the next."""

    conv: Tensor | None  # [B, conv-1, channels of the inputs]; None without a convolution
    scan: Tensor | None  # [B, H, K, V]; None before the first step


class KeyValueMixer(Mixer):
    """A mixer with inputs of a few last steps and a state [B, H, K, V]; subclasses set the attributes below."""

    inputs: HeadInputs | TokenShift
    shape: tuple[int, int, int]  # H, K, V of the state
    multiply_adds: int  # per entry of the state and step

    def init_state(self, batch: int) -> KeyValueState:
        return KeyValueState(self.inputs.init_state(batch), self._zeros(batch))

    def _zeros(self, batch: int) -> Tensor:
        weight = self.output.weight
        return torch.zeros(batch, *self.shape, dtype=accumulation_dtype(weight.dtype), device=weight.device)

    def state_matrices(self, state: KeyValueState) -> StateMatrices | None:
        return None if state.scan is None else StateMatrices(state.scan)

    def mixing_flops(self, length: int) -> int:
        """The recurrence, the read-out and the convolution."""
        H, K, V = self.shape
        return 2 * self.multiply_adds * H * K * V + self.inputs.conv_flops


@dataclass(frozen=True)
class KeyValueConfig(MixerConfig):
    """The options of mixers whose state is a matrix of keys by values per head."""

    heads: int = 4
    """Number of heads H."""
    key_size: int = 32
    """K, channels of a head's queries and keys."""
    value_size: int = 32
    """V, channels of a head's values."""

    def __post_init__(self) -> None:
        require(*self.checks())

    def checks(self) -> list[tuple[bool, str]]:
        """What `require` is told of the options; subclasses add theirs, so that all mistakes come at once."""
        return at_least(1, self, "heads", "key_size", "value_size")

    @property
    def shape(self) -> tuple[int, int, int]:
        """H, K, V."""
        return self.heads, self.key_size, self.value_size


@dataclass(frozen=True)
class HeadInputsConfig(KeyValueConfig):
    """The options of those whose inputs come from `HeadInputs`."""

    conv: int = 0
    """Steps of a short convolution (followed by silu) of q, k and v. 0: none."""
    input_std: float = 0.02
    """Standard deviation of the input projection's weights at initialisation."""

    def checks(self) -> list[tuple[bool, str]]:
        return [*super().checks(), *at_least(0, self, "conv"), *positive(self, "input_std")]


class ScanMixer(KeyValueMixer):
    """A `KeyValueMixer` that takes its inputs, mixes them by one scan of its state, and projects what is read out.

    Subclasses define `mix`, from the inputs of all heads to the read-out.
    """

    width: int  # channels of the mixer's input and output

    def forward(
        self, x: Tensor, state: KeyValueState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, KeyValueState]:
        x, reset = check_inputs(type(self).__name__, x, self.width, mask, reset)
        state = KeyValueState(None, None) if state is None else state
        inputs, conv = self.inputs(x, state.conv, mask, reset)
        y, scan = self.mix(x, inputs, state.scan, mask, reset)
        return self.output(y), KeyValueState(conv, scan)

    @abstractmethod
    def mix(
        self, x: Tensor, inputs: Any, scan: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The read-out [B, T, H·V] and the state [B, H, K, V] after the last step.

        Args:
            x: [B, T, width], zeros at padded steps.
            inputs: what `self.inputs` made of x.
            scan: [B, H, K, V], the state before the first step; None: zeros.
            mask, reset: [B, T] bool or None, as in `forward`.
        """
