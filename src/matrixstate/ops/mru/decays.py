"""Quantities derived from the decay of the MRU's state."""

import torch
from torch import Tensor


def write_share(log_decay: Tensor) -> Tensor:
    """log f -> sqrt(1 - f²): noise written with this factor keeps the variance of a state that decays with f.

    At least 1e-6, so that the slope of the root stays finite. Source: Orvieto et al. 2023, the LRU's normalisation.
    """
    return (-torch.expm1(2 * log_decay)).clamp_min(1e-12).sqrt()
