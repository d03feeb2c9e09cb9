"""k-means with the number of clusters chosen by the silhouette, and spherical k-means."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

RESTARTS = 3
ITERATIONS = 30  # of k-means at most
EPS = 1e-12  # squared distances below this share of the variance count as zero


class Clusters(NamedTuple):
    """A partition of points [N, F] into C clusters."""

    labels: Tensor  # [N] int64, the cluster of each point
    centres: Tensor  # [C, F] float64
    silhouette: float  # from -1 to 1; near 1 where clusters are narrow and far apart


def cluster(points: Tensor, counts: list[int], generator: torch.Generator) -> Clusters:
    """Cluster points [N, F] by k-means, with the number of clusters among `counts` that has the largest silhouette.

    Of equal silhouettes the first count wins. Each count is tried three times, seeded by greedy k-means++. There are
    fewer clusters where there are fewer distinct points. The silhouette is the simplified one, with distances to
    centres.
    Sources: Arthur and Vassilvitskii, "k-means++"; Hruschka et al. for the simplified silhouette.
    """
    points = points.double()
    tries = [_kmeans(points, count, generator) for count in counts for _ in range(RESTARTS)]
    return max(tries, key=lambda clusters: clusters.silhouette)


def spherical_centres(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centres [count, F] of length 1 of points [N, F] of length 1, by spherical k-means.

    Seeded by k-means++ and run once for 30 iterations, which suffices for codebooks with many centres. A centre without
    points stays where it is. Source: Dhillon and Modha, spherical k-means.
    """
    drawn = int(torch.randint(len(points), (), generator=generator))
    seeds, distance = [drawn], torch.full((len(points),), 2.0)  # 1 - cosine, at most 2
    while len(seeds) < count:
        # the floor keeps the weights valid where all points are seeds
        distance = torch.minimum(distance, 1 - points @ points[seeds[-1]]).clamp_min(EPS)
        seeds.append(int(torch.multinomial(distance, 1, generator=generator)))
    centres = points[seeds]
    for _ in range(ITERATIONS):
        labels = (points @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        length = sums.norm(dim=1, keepdim=True)
        centres = torch.where(length > 0, sums / length.clamp_min(EPS), centres)
    return centres


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """[N] int64, the index of the nearest of centres [C, F] for each of points [N, F]."""
    return torch.cdist(points.double(), centres).argmin(dim=1)


def _kmeans(points: Tensor, count: int, generator: torch.Generator) -> Clusters:
    """Lloyd's algorithm; clusters that lose all their points are dropped."""
    centres = _seeds(points, count, generator)
    labels = nearest(points, centres)
    for _ in range(ITERATIONS):
        members = one_hot(labels, len(centres)).double()
        sizes = members.sum(dim=0)
        occupied = sizes > 0
        centres = (members.T @ points)[occupied] / sizes[occupied, None]
        before, labels = labels, nearest(points, centres)
        if bool(occupied.all()) and torch.equal(labels, before):
            break
    return Clusters(labels, centres, _silhouette(points, centres))


def _seeds(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Seeds [<= count, F] by greedy k-means++: of several candidates, drawn with the squared distance from the seeds
    so far as weights, the one that reduces the sum of squared distances most."""
    least = EPS * float((points - points.mean(dim=0)).square().sum(dim=1).mean())
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    distance = (points - points[chosen[0]]).square().sum(dim=1)
    while len(chosen) < count and float(distance.max()) > least:
        drawn = torch.multinomial(distance, 2 + count.bit_length(), replacement=True, generator=generator)
        reduced = torch.minimum(distance[:, None], torch.cdist(points, points[drawn]).square())
        best = int(reduced.sum(dim=0).argmin())
        chosen.append(int(drawn[best]))
        distance = reduced[:, best]
    return points[chosen]


def _silhouette(points: Tensor, centres: Tensor) -> float:
    """The mean of (b - a) / b with a and b the distances to the nearest and the second nearest centre."""
    if len(centres) < 2:
        return 0.0
    near, next_near = torch.cdist(points, centres).topk(2, dim=1, largest=False).values.unbind(dim=1)
    return float(((next_near - near) / next_near.clamp_min(1e-300)).mean())
