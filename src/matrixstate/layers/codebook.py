"""A learned codebook of matrices, towards which a running product corrects itself."""

import math

import torch
from torch import Tensor, nn


class Codebook(nn.Module):
    """What the states of a corrected MRU snap to, per group of heads, and how surely."""

    no_weight_decay = ("codes", "log_sharpness")

    def __init__(self, groups: int, codes: int, heads: int, order: int, sharpness: float) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(groups, codes, heads, order, order))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Keys and values for `snap_scan`, [groups, codes, heads, D, D] each."""
        heads, order = self.codes.shape[2:4]
        size = torch.linalg.matrix_norm(self.codes)[..., None, None] / math.sqrt(order)
        values = self.codes / size.clamp_min(1e-12)
        return values * (self.log_sharpness.exp() / (heads * order)), values
