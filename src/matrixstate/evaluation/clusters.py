"""Clusters of points without labels: k-means, with as many clusters as part best."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

RESTARTS = 3
ROUNDS = 30  # of k-means at most
NOTHING = 1e-12  # a share of the points' variance below which they are the same point


class Clusters(NamedTuple):
    """Points [N, F] parted into C clusters."""

    labels: Tensor  # [N] int64
    centres: Tensor  # [C, F] float64
    silhouette: float  # from -1 to 1; near 1 where clusters are narrow and far apart


def cluster(points: Tensor, counts: list[int], generator: torch.Generator) -> Clusters:
    """The clusters of points [N, F], as many of `counts` as have the largest silhouette (the fewest of equals).

    Seeds by greedy k-means++, three tries. The silhouette is the simplified one, which takes the distance to a cluster
    for that to its centre. Where there are fewer different points than clusters, there are fewer clusters.
    Sources: Arthur and Vassilvitskii, "k-means++"; Hruschka et al. for the simplified silhouette.
    """
    points = points.double()
    tries = [_kmeans(points, count, generator) for count in counts for _ in range(RESTARTS)]
    return max(tries, key=lambda found: found.silhouette)


def spherical_centres(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The directions [count, F] of length 1 round which points [N, F] of length 1 lie: spherical k-means.

    Seeds by k-means++, one try, and thirty rounds: for many clusters, of which no more is asked than that they be fine
    enough. A centre that no point is nearest to stays where it is. Source: Dhillon and Modha, spherical k-means.
    """
    drawn = int(torch.randint(len(points), (), generator=generator))
    seeds, distance = [drawn], torch.full((len(points),), 2.0)
    while len(seeds) < count:
        distance = torch.minimum(distance, 1 - points @ points[seeds[-1]]).clamp_min(NOTHING)
        seeds.append(int(torch.multinomial(distance, 1, generator=generator)))
    centres = points[seeds]
    for _ in range(ROUNDS):
        labels = (points @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        length = sums.norm(dim=1, keepdim=True)
        centres = torch.where(length > 0, sums / length.clamp_min(NOTHING), centres)
    return centres


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """[N], which centre is nearest to each point [N, F]."""
    return torch.cdist(points.double(), centres).argmin(dim=1)


def _kmeans(points: Tensor, count: int, generator: torch.Generator) -> Clusters:
    centres = _seeds(points, count, generator)
    labels = nearest(points, centres)
    for _ in range(ROUNDS):
        members = one_hot(labels, len(centres)).double()
        sizes = members.sum(dim=0)
        kept = sizes > 0
        centres = (members.T @ points)[kept] / sizes[kept, None]
        before, labels = labels, nearest(points, centres)
        if bool(kept.all()) and torch.equal(labels, before):
            break
    return Clusters(labels, centres, _silhouette(points, centres))


def _seeds(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: seeds drawn with the square of their distance from those so far, the best of several drawn."""
    least = NOTHING * float((points - points.mean(dim=0)).square().sum(dim=1).mean())
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    distance = (points - points[chosen[0]]).square().sum(dim=1)
    while len(chosen) < count and float(distance.max()) > least:
        drawn = torch.multinomial(distance, 2 + count.bit_length(), replacement=True, generator=generator)
        left = torch.minimum(distance[:, None], torch.cdist(points, points[drawn]).square())
        best = int(left.sum(dim=0).argmin())
        chosen.append(int(drawn[best]))
        distance = left[:, best]
    return points[chosen]


def _silhouette(points: Tensor, centres: Tensor) -> float:
    if len(centres) < 2:
        return 0.0
    near, next_near = torch.cdist(points, centres).topk(2, dim=1, largest=False).values.unbind(dim=1)
    return float(((next_near - near) / next_near.clamp_min(1e-300)).mean())
