"""LTC and CfC with the weights of their authors' package ncps give the same. Theirs compute in float32."""

import pytest
import torch

from closeness import assert_equal_to_rounding
from matrixstate.mixers import CfCConfig, LTCConfig

WIDTH, B, T = 7, 2, 19


def drawn(module):
    """The module with perturbed parameters, for some of theirs start at zeros or ones; not their masks of ones."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    return module


def steps(cell, x, *time):
    """The outputs of a cell of theirs, step by step."""
    h, out = torch.zeros(B, WIDTH), []
    for now in x.unbind(1):
        y, h = cell(now, h, *time)
        out.append(y)
    return torch.stack(out, dim=1)


def test_ltc(published):
    theirs, wirings = published("ncps.torch"), published("ncps.wirings")
    source = drawn(theirs.LTCCell(wirings.FullyConnected(WIDTH), WIDTH, implicit_param_constraints=True))
    ours = LTCConfig(heads=1).make(WIDTH)
    w = source.state_dict()
    synapses = ("w", "mu", "sigma", "erev")
    ours.load_state_dict(
        {
            "inputs.projection.weight": torch.diag(w["input_w"]),
            "bias": w["input_b"].view(1, 1, WIDTH),
            "recurrent": torch.stack([w[name] for name in synapses])[:, None],
            "sensory": torch.stack([w["sensory_" + name] for name in synapses])[:, None],
            "neurons": torch.stack([w["gleak"], w["vleak"], w["cm"]])[:, None],
            "output.weight": torch.diag(w["output_w"]),
        }
    )
    x = torch.randn(B, T, WIDTH)
    assert_equal_to_rounding(ours(x)[0] + w["output_b"], steps(source, x), "y")


@pytest.mark.parametrize("variant", ["default", "no_gate", "pure"])
def test_cfc(variant, published):
    source = drawn(published("ncps.torch").CfCCell(WIDTH, WIDTH, variant, backbone_units=WIDTH))
    ours = CfCConfig(heads=1, variant=variant).make(WIDTH)
    w = source.state_dict()
    backbone = w["backbone.0.weight"]
    maps, vectors = [backbone[:, WIDTH:], w["ff1.weight"]], [w["ff1.bias"]]
    if variant == "pure":
        vectors += [w["w_tau"][0], w["A"][0]]
    else:  # a time of 1 passes at every step, so their two maps that give t are one
        maps += [w["ff2.weight"], w["time_a.weight"] + w["time_b.weight"]]
        vectors += [w["ff2.bias"], w["time_a.bias"] + w["time_b.bias"]]
    ours.load_state_dict(
        {
            "inputs.projection.weight": backbone[:, :WIDTH],
            "bias": w["backbone.0.bias"].view(1, 1, WIDTH),
            "recurrent": torch.stack([a.T for a in maps])[:, None],
            "vectors": torch.stack(vectors)[:, None],
            "output.weight": torch.eye(WIDTH),
        }
    )
    x = torch.randn(B, T, WIDTH)
    assert_equal_to_rounding(ours(x)[0], steps(source, x, 1.0), "y")
