"""Random weights for published modules, and renamings that several of them need."""

import torch


def drawn(module):
    """The module with random parameters: some of theirs start at zeros or ones, others are not initialised at all."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return module.eval()


def mamba_weights(w, norms=()):
    """Our weights of Mamba by name, from those of most other implementations; `norms`: the names of three norms."""
    names = {
        "input.weight": "in_proj.weight",
        "conv.bias": "conv1d.bias",
        "parts.weight": "x_proj.weight",
        "step.weight": "dt_proj.weight",
        "step_bias": "dt_proj.bias",
        "A_log": "A_log",
        "skip": "D",
        "output.weight": "out_proj.weight",
    } | {f"norms.{i}.weight": f"{name}.weight" for i, name in enumerate(norms)}
    return {ours: w[theirs] for ours, theirs in names.items()} | {"conv.weight": w["conv1d.weight"][:, 0]}
