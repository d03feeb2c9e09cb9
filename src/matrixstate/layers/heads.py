"""What the mixers with a state of keys by values share: inputs cut into heads, and the state itself."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from matrixstate.layers.mixer import Mixer, StateMatrices
from matrixstate.layers.projection import projection
from matrixstate.layers.short_conv import ShortConv
from matrixstate.ops import accumulation_dtype


class HeadInputs(nn.Module):
    """One projection cut into several inputs of heads, behind a short convolution with silu where that is asked for.

    parts: (heads, size) of every input. conv: steps of the convolution, 0 for none. silu: apply silu also without a
    convolution. bias: of the convolution. State: that of the convolution [B, conv-1, channels], or None.
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
        """x [B, T, width] -> one [B, T, heads, size] per part, all of one dtype, and the state."""
        mixed, last = self.projection(x), None
        if self.conv is not None:
            mixed, last = self.conv(mixed, state, mask, reset)
        elif self.silu:
            mixed = nn.functional.silu(mixed)
        pieces = mixed.split([heads * size for heads, size in self.parts], dim=-1)
        return [piece.unflatten(-1, part) for piece, part in zip(pieces, self.parts, strict=True)], last

    def init_state(self, batch: int) -> Tensor | None:
        """The state before anything was seen."""
        return None if self.conv is None else self.conv.init_state(batch)

    @property
    def filter_flops(self) -> int:
        """Operations of the convolution per token."""
        return 0 if self.conv is None else 2 * self.conv.weight.numel()


def share(x: Tensor, heads: int) -> Tensor:
    """x [B, T, G, n] -> [B, T, heads, n], every one of the G heads for a contiguous group."""
    return x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], dim=2)


def unit(x: Tensor) -> Tensor:
    """x with its last axis scaled to length 1, in its own dtype under autocast too."""
    return nn.functional.normalize(x, dim=-1, eps=max(1e-12, torch.finfo(x.dtype).tiny)).to(x.dtype)


class KeyValueState(NamedTuple):
    conv: Tensor | None  # [B, conv-1, channels of the inputs]
    scan: Tensor | None  # [B, H, K, V]


class KeyValueMixer(Mixer):
    """A mixer whose inputs are `HeadInputs` and whose state is a matrix of keys by values per head."""

    inputs: HeadInputs
    shape: tuple[int, int, int]  # H, K, V of the state
    passes: int  # multiply-adds that one step makes per entry of the state

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
        return 2 * self.passes * H * K * V + self.inputs.filter_flops
