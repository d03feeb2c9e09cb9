"""Mixers with the weights of smaller packages' layers give the same: xlstm, mambapy, minGRU-pytorch."""

import pytest
import torch
from weights import drawn, mamba_weights

from closeness import assert_equal_to_rounding
from matrixstate.mixers import MambaConfig, MinGRUConfig, MinLSTMConfig, MLSTMConfig, SLSTMConfig


@pytest.mark.parametrize("conv", [0, 4])
def test_slstm(conv, published):
    """The authors' layer, with its cell in PyTorch."""
    theirs = published("xlstm")
    width, heads, d = 12, 3, 4
    config = theirs.sLSTMLayerConfig(
        embedding_dim=width, num_heads=heads, conv1d_kernel_size=conv, backend="vanilla", dtype="float32"
    )
    source = drawn(theirs.sLSTMLayer(config))
    ours = SLSTMConfig(heads=heads, conv=conv).make(width)
    w = source.state_dict()
    # the layer hands what `fgate` and `igate` give to the cell as i and f
    i, f, z, o = (torch.block_diag(*w[f"{name}.weight"]) for name in ("fgate", "igate", "zgate", "ogate"))
    recurrent = w["slstm_cell._recurrent_kernel_"].view(heads, 4, d, d).permute(1, 0, 3, 2)
    bias = w["slstm_cell._bias_"].view(4, heads, d)
    order = [2, 0, 1, 3]  # theirs are of i, f, z, o, ours of z, i, f, o
    ours.load_state_dict(
        {
            "direct.weight": torch.cat([z, o]),
            "gates.weight": torch.cat([i, f]),
            "recurrent": recurrent[order],
            "bias": bias[order],
            "norm.weight": 1 + w["group_norm.weight"].view(heads, d),
            "output.weight": torch.eye(width),  # theirs is outside the layer
        }
        | ({"conv.weight": w["conv1d.conv.weight"][:, 0], "conv.bias": w["conv1d.conv.bias"]} if conv else {})
    )
    x = torch.randn(2, 19, width)
    assert_equal_to_rounding(ours(x)[0], source(x), "y")


def test_mlstm(published):
    """The authors' layer of the first version. It adds 1e-6 to the denominator."""
    theirs = published("xlstm")
    width, inner, heads, block = 12, 24, 3, 4
    config = theirs.mLSTMLayerConfig(
        embedding_dim=width,
        num_heads=heads,
        qkv_proj_blocksize=block,
        context_length=32,
        round_proj_up_to_multiple_of=inner,
    )
    source = drawn(theirs.mLSTMLayer(config))
    ours = MLSTMConfig(heads=heads, expand=2, block=block).make(width)
    w = source.state_dict()
    gates = {
        part: torch.cat([w[f"mlstm_cell.{gate}.{part}"] for gate in ("igate", "fgate")]) for part in ("weight", "bias")
    }
    ours.load_state_dict(
        {
            "input.weight": w["proj_up.weight"],
            "conv.weight": w["conv1d.conv.weight"][:, 0],
            "conv.bias": w["conv1d.conv.bias"],
            "blocks": torch.stack([w[f"{part}_proj.weight"].mT for part in "qkv"]),
            "gates.weight": gates["weight"],
            "gates.bias": gates["bias"],
            "norm.weight": 1 + w["mlstm_cell.outnorm.weight"].view(heads, -1),
            "skip": w["learnable_skip"],
            "output.weight": w["proj_down.weight"],
        }
    )
    x = torch.randn(2, 19, width)
    assert_equal_to_rounding(ours(x)[0], source(x), "y")


def test_mamba(published):
    """The parallel scan of mambapy, whole and from step to step."""
    theirs = published("mambapy.mamba")
    config = theirs.MambaConfig(d_model=12, n_layers=1, dt_rank=3, d_state=4)
    source = drawn(theirs.MambaBlock(config))
    ours = MambaConfig(states=4, rank=3).make(12)
    ours.load_state_dict(mamba_weights(source.state_dict()))
    x = torch.randn(2, 19, 12)
    y, _ = ours(x)
    assert_equal_to_rounding(y, source(x), "y")
    cache, steps = (None, torch.zeros(2, 24, 3)), []
    for t in range(19):
        step, cache = source.step(x[:, t], cache)
        steps.append(step)
    assert_equal_to_rounding(y, torch.stack(steps, dim=1), "steps")


@pytest.mark.parametrize(
    ("name", "config", "order"), [("minGRU", MinGRUConfig, (1, 0)), ("minLSTM", MinLSTMConfig, (1, 2, 0))]
)
def test_min_gru_and_min_lstm(name, config, order, published):
    """In their form by logarithms, from no state; a state carried on, minLSTM wrongly takes through g once more."""
    theirs = published(f"minGRU_pytorch.{name}")
    width, channels = 12, 18
    source = drawn(getattr(theirs, name)(width, expansion_factor=channels / width))
    ours = config(channels=channels).make(width)
    maps, output = (p for p in source.state_dict().values())
    parts = maps.chunk(len(order))
    ours.load_state_dict(
        {
            "inputs.weight": torch.cat([parts[i] for i in order]),
            "inputs.bias": torch.zeros(len(maps)),
            "output.weight": output,
        }
    )
    x = torch.randn(2, 19, width)
    assert_equal_to_rounding(ours(x)[0], source(x), "y")
