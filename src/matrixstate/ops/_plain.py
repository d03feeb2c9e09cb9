"""What backends in plain PyTorch answer when they are asked for a reason against an input: there is none."""

import torch


def unsupported(device: str, dtype: torch.dtype, *details: str) -> str | None:
    """None: they run on any device, in any floating-point dtype, with any options."""
    return None
