"""The value path of the MRU: the decay f_t and the additive V_t of H_t = f_t H_{t-1} X_t + V_t."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from matrixstate.layers.forget_gate import ForgetGate
from matrixstate.layers.projection import projection
from matrixstate.layers.short_conv import ShortConv
from matrixstate.ops import write_share

if TYPE_CHECKING:
    from matrixstate.mixers.matrix.mru import MRUConfig


def value_path_checks(config: "MRUConfig") -> list[tuple[bool, str]]:
    """For `require`: the options `write`, `write_conv`, `skip` and `balanced`."""
    return [
        (config.write_conv > 0, f"write_conv: expected at least 1 step, got {config.write_conv}"),
        (not (config.write and config.rescale), "rescale: expected false where write is true, got true"),
        (config.write or not config.skip, "skip: expected false where write is false, got true"),
        (
            (config.write and config.decay) or not config.balanced,
            "balanced: expected false without write and decay, got true",
        ),
    ]


class Written(NamedTuple):
    """What the steps write besides their matrices X_t. None where the option is off."""

    value: Tensor | None  # [B, T, H·D²], values after the convolution
    added: Tensor | None  # [B, T, H, D, D], V_t: the values, scaled where `balanced`
    decay: Tensor | None  # [B, T, H], f_t


class ValuePath(NamedTuple):
    """The modules of the value path. None where the option is off.

    They are submodules of the mixer under these names, which checkpoints use; this groups them for a call.
    """

    forget: nn.Linear | None  # width -> H
    forget_gate: ForgetGate | None
    value: nn.Linear | None  # width -> H·D²
    value_conv: ShortConv | None

    @classmethod
    def make(cls, width: int, size: int, config: "MRUConfig") -> "ValuePath":
        """New modules as `config` asks for them. size: H·D², entries of the state over all heads."""
        return cls(
            forget=projection(width, config.heads) if config.decay else None,
            forget_gate=ForgetGate(config.heads) if config.decay else None,
            value=projection(width, size, config.input_std) if config.write else None,
            value_conv=ShortConv(size, config.write_conv) if config.write else None,
        )

    def write(
        self,
        x: Tensor,
        state: Tensor | None,
        mask: Tensor | None,
        reset: Tensor | None,
        *,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        balanced: bool,
    ) -> tuple[Written, Tensor | None]:
        """What the steps of x [B, T, width] write, and the state of the convolution.

        Args:
            state: [B, write_conv-1, H·D²], what the last call returned. Default: zeros.
            mask: [B, T] bool, True at real steps.
            reset: [B, T] bool, True where a document starts.
            shape: H, D, D.
            dtype: of V_t.
            balanced: scale V_t by sqrt(1 - f_t²), which needs both value and forget gate.
        """
        value = added = decay = last = None
        if self.value is not None and self.value_conv is not None:
            value, last = self.value_conv(self.value(x), state, mask, reset)
            added = value.to(dtype).unflatten(-1, shape)
        if self.forget is not None and self.forget_gate is not None:
            forget = self.forget(x)
            decay = self.forget_gate(forget)
            if balanced and added is not None:
                # of log f, since 1 - f² would cancel for f near 1
                share = write_share(self.forget_gate.log_decay(forget))
                added = (added * share[..., None, None]).to(dtype)
        return Written(value, added, decay), last
