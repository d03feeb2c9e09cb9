"""What goes with a decay of the MRU's state."""

import torch
from torch import Tensor


def write_share(log_decay: Tensor) -> Tensor:
    """log f -> sqrt(1 - f²), which keeps the variance of a state that forgets with f and is written with noise.

    At least 1e-6, where the root's slope is still finite. Source: Orvieto et al. 2023, the LRU's normalisation.
    """
    return (-torch.expm1(2 * log_decay)).clamp_min(1e-12).sqrt()
