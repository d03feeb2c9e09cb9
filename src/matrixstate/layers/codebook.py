"""A learned codebook of matrices, towards which a running product corrects itself."""

import math

import torch
from torch import Tensor, nn

from matrixstate.layers.mixer import no_weight_decay

SPREAD = 0.05  # the share of the states' size by which they differ, from which on they are worth taking as codes


class Codebook(nn.Module):
    """What the states of a corrected MRU snap to, per group of heads, and how surely."""

    def __init__(self, groups: int, codes: int, heads: int, order: int, sharpness: float) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(groups, codes, heads, order, order))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))
        self.started = nn.Parameter(torch.zeros(()), requires_grad=False)  # a parameter, so that checkpoints hold it
        no_weight_decay(self.codes, self.log_sharpness)

    @torch.no_grad()
    def start(self, states: Tensor) -> None:
        """Takes states [N, groups · heads, D, D] that are to be told apart as codes, once, when they first differ.

        Random codes lie far from all states, about equally far from each: training then finds a soft mixture of all
        codes, which is nearly linear and corrects nothing. Every code is the state farthest from those taken before.
        """
        points = states.to(self.codes.dtype).unflatten(1, (len(self.codes), -1))
        mean = points.mean(dim=0)
        if not len(points) or self.started or (points - mean).square().mean() < SPREAD * points.square().mean():
            return
        for codes, some in zip(self.codes, points.transpose(0, 1), strict=True):
            chosen = farthest_first(some.flatten(1), len(codes))
            codes[: len(chosen)] = some[chosen]
        self.started.fill_(1)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Keys and values for `snap_scan`, [groups, codes, heads, D, D] each."""
        heads, order = self.codes.shape[2:4]
        size = torch.linalg.matrix_norm(self.codes)[..., None, None] / math.sqrt(order)
        values = self.codes / size.clamp_min(1e-12)
        return values * (self.log_sharpness.exp() / (heads * order)), values


def farthest_first(points: Tensor, count: int) -> list[int]:
    """Indices of at most `count` of points [N, F]: the first, and then always the farthest from all taken so far."""
    chosen, distance = [0], (points - points[0]).square().sum(dim=1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(dim=1))
    return chosen
