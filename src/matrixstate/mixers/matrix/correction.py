"""Error correction of the MRU: every few steps the state is replaced by a mixture of the entries of a codebook."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from matrixstate.layers.mixer import positive
from matrixstate.ops import SnapState, accumulation_dtype, snap_scan

if TYPE_CHECKING:
    from matrixstate.mixers.matrix.mru import MRUConfig


def correction_checks(config: "MRUConfig") -> list[tuple[bool, str]]:
    """For `require`: the options `snap`, `codes`, `code_groups` and `sharpness`."""
    return [
        (config.snap >= 0, f"snap: expected 0 or more steps, got {config.snap}"),
        (
            not config.snap or config.correctable,
            "snap: expected 0 unless rescale is true, readout normalised, method auto, decay and write false, "
            f"got {config.snap}",
        ),
        (config.codes > 0, f"codes: expected at least 1, got {config.codes}"),
        (
            config.heads <= 0 or (config.code_groups > 0 and config.heads % config.code_groups == 0),
            f"code_groups: expected a divisor of {config.heads}, got {config.code_groups}",
        ),
        *positive(config, "sharpness"),
    ]


class Codebook(nn.Module):
    """The scan H_t = H_{t-1} X_t that snaps to learned codes at every c-th step.

    A correction replaces H by softmax(sharpness · cos(H, codes)) codes: the retrieval of `snap_scan`. The cosine is
    taken over all heads of a group, which are corrected together.

    Args:
        heads: H, a multiple of `groups`.
        order: D, the order of each head's state.
        every: c, steps between two corrections.
        codes: M, entries of each group's codebook.
        groups: G, groups of heads with a codebook each.
        sharpness: inverse temperature of the softmax at initialisation; a learned scalar, shared by all groups.
    """

    no_weight_decay = ("codes", "log_sharpness")

    def __init__(self, heads: int, order: int, *, every: int, codes: int, groups: int, sharpness: float) -> None:
        super().__init__()
        self.every = every
        self.codes = nn.Parameter(torch.randn(groups, codes, heads // groups, order, order))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))

    def forward(
        self, x: Tensor, state: SnapState | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, SnapState]:
        """x [B, T, H, D, D] -> every H_t [B, T, H, D, D], and the state after the last step."""
        keys, values = self.keys_and_values()
        return snap_scan(x, keys, values, state, every=self.every, mask=mask, reset=reset)

    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        """What `snap_scan` compares the state with and replaces it by, [G, M, H/G, D, D] each."""
        heads, order = self.codes.shape[2:4]
        norm = torch.linalg.matrix_norm(self.codes)[..., None, None] / math.sqrt(order)
        values = self.codes / norm.clamp_min(1e-12)  # norm sqrt(D), as the state has
        # state and value have squared norm D in each of the H/G heads, so this makes of inner products cosines
        return values * (self.log_sharpness.exp() / (heads * order)), values

    def init_state(self, batch: int) -> SnapState:
        """The state before the first step: the identity, and no step counted."""
        groups, _, heads, order, _ = self.codes.shape
        identity = torch.eye(order, dtype=accumulation_dtype(self.codes.dtype), device=self.codes.device)
        phase = torch.zeros(batch, dtype=torch.int32, device=self.codes.device)
        return SnapState(identity.expand(batch, groups * heads, order, order), phase)
