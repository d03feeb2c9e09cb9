"""Mixers with the weights of Hugging Face transformers' models give the same. Theirs compute in float32 inside."""

import torch

from closeness import assert_equal_to_rounding
from matrixstate.mixers import Mamba2Config


def perturbed(module):
    """The module with every parameter moved, for some start at zeros or ones, where much is the same."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module.eval()


def test_mamba2(published):
    theirs = published("transformers.models.mamba2.modeling_mamba2")
    width, heads, K, V = 12, 3, 4, 8
    config = theirs.Mamba2Config(hidden_size=width, num_heads=heads, head_dim=V, state_size=K, n_groups=1, chunk_size=8)
    source = perturbed(theirs.Mamba2Mixer(config, layer_idx=0))
    ours = Mamba2Config(heads=heads, key_size=K, value_size=V, groups=1).make(width)
    w = source.state_dict()
    gate, inputs, step = w["in_proj.weight"].split([heads * V, heads * V + 2 * K, heads])
    ours.load_state_dict(
        {
            "gate.weight": gate,
            "inputs.projection.weight": inputs,
            "inputs.conv.weight": w["conv1d.weight"][:, 0],
            "inputs.conv.bias": w["conv1d.bias"],
            "step.weight": step,
            "forget_gate.A_log": w["A_log"],
            "forget_gate.dt_bias": w["dt_bias"],
            "skip": w["D"],
            "norm.weight": w["norm.weight"],
            "output.weight": w["out_proj.weight"],
        }
    )
    x = torch.randn(2, 19, width)
    assert_equal_to_rounding(ours(x)[0], source(x), "y")
