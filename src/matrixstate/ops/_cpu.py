"""What the compiled kernels for the CPU have in common: which inputs they take."""

import torch


def unsupported(device: str, dtype: torch.dtype, *details: str) -> str | None:
    """Why the kernels cannot run such inputs; None if they can."""
    if device != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return f"needs torch.float32 or torch.bfloat16 on cpu, got {dtype} on {device}"
    return None
