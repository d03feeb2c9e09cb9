"""How the backends of attention lay out their inputs."""

import torch
from torch import Tensor


def heads_first(q: Tensor, keys: Tensor, values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """q [B,T,H,K], keys [B,N,G,K], values [B,N,G,V] -> [B,H,T,K], [B,H,N,K], [B,H,N,V] in `dtype`.

    Keys and values of a head are repeated for the H/G heads of queries that share it.
    """
    H = q.shape[2]
    q, keys, values = (a.to(dtype).transpose(1, 2) for a in (q, keys, values))
    keys, values = (a if a.shape[1] == H else a.repeat_interleave(H // a.shape[1], dim=1) for a in (keys, values))
    return q, keys, values
