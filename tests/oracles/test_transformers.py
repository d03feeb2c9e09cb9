"""Mixers with the weights of Hugging Face transformers' models give the same. Theirs compute in float32 inside."""

import pytest
import torch

from closeness import assert_equal_to_rounding
from matrixstate.mixers import Mamba2Config, MambaConfig, MLSTMLargeConfig, RWKV4Config


def drawn(module):
    """The module with random parameters: some of theirs start at zeros or ones, others are not initialised at all."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return module.eval()


def test_mamba2(published):
    theirs = published("transformers.models.mamba2.modeling_mamba2")
    width, heads, K, V = 12, 3, 4, 8
    config = theirs.Mamba2Config(hidden_size=width, num_heads=heads, head_dim=V, state_size=K, n_groups=1, chunk_size=8)
    source = drawn(theirs.Mamba2Mixer(config, layer_idx=0))
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


def test_rwkv4(published):
    theirs = published("transformers.models.rwkv.modeling_rwkv")
    config = theirs.RwkvConfig(hidden_size=12, attention_hidden_size=8, num_hidden_layers=2)
    source = drawn(theirs.RwkvSelfAttention(config, layer_id=0))
    ours = RWKV4Config(channels=8).make(12)
    w = source.state_dict()
    ours.load_state_dict(
        {
            "mixes": torch.cat([w["time_mix_key"], w["time_mix_value"], w["time_mix_receptance"]])[:, 0],
            "key.weight": w["key.weight"],
            "value.weight": w["value.weight"],
            "read.weight": w["receptance.weight"],
            "decay": w["time_decay"],
            "bonus": w["time_first"],
            "output.weight": w["output.weight"],
        }
    )
    x = torch.randn(1, 19, 12)  # their state of more than one row is wrong
    assert_equal_to_rounding(ours(x)[0], source(x)[0], "y")


def test_mlstm_large(published):
    theirs = published("transformers.models.xlstm.modeling_xlstm")
    width, heads, K, V = 12, 3, 2, 4
    config = theirs.xLSTMConfig(
        hidden_size=width, num_heads=heads, qk_dim_factor=K * heads / width, chunk_size=8, mode="inference"
    )
    source = drawn(theirs.xLSTMLayer(config))
    ours = MLSTMLargeConfig(heads=heads, key_size=K, value_size=V).make(width)
    w = source.state_dict()
    ours.load_state_dict(
        {
            "inputs.weight": torch.cat([w["q.weight"], w["k.weight"], w["v.weight"]]),
            "gate.weight": w["ogate_preact.weight"],
            "gates.weight": torch.cat([w["igate_preact.weight"], w["fgate_preact.weight"]]),
            "gates.bias": torch.cat([w["igate_preact.bias"], w["fgate_preact.bias"]]),
            "norm.weight": w["multihead_norm.weight"].view(heads, V),
            "output.weight": w["out_proj.weight"],
        }
    )
    x = torch.randn(2, 16, width)
    # they add 1e-6 to the divided denominator, and their cached step fails at such sizes
    torch.testing.assert_close(ours(x)[0], source(x)[0], rtol=1e-4, atol=1e-5)


SIZES = {"hidden_size": 12, "state_size": 4, "conv_kernel": 4, "time_step_rank": 3}
JAMBA = {"hidden_size": 12, "mamba_d_state": 4, "mamba_d_conv": 4, "mamba_dt_rank": 3, "use_mamba_kernels": False}


@pytest.mark.parametrize(
    ("model", "mixer", "options", "norms"),
    [
        ("mamba", "MambaMixer", SIZES, "none"),
        ("falcon_mamba", "FalconMambaMixer", {**SIZES, "mixer_rms_eps": 1e-5}, "plain"),
        ("jamba", "JambaMambaMixer", {**JAMBA, "rms_norm_eps": 1e-5}, "weighted"),
    ],
)
def test_mamba(model, mixer, options, norms, published):
    theirs = published(f"transformers.models.{model}.modeling_{model}")
    config = getattr(theirs, mixer.replace("MambaMixer", "MambaConfig").replace("JambaMamba", "Jamba"))(**options)
    # it initialises itself before it has its norms
    more = {"initialize_mixer_weights": False} if model == "falcon_mamba" else {}
    source = drawn(getattr(theirs, mixer)(config, layer_idx=0, **more))
    ours = MambaConfig(states=4, rank=3, step_norms=norms).make(12)
    w = source.state_dict()
    weights = {
        "input.weight": w["in_proj.weight"],
        "conv.weight": w["conv1d.weight"][:, 0],
        "conv.bias": w["conv1d.bias"],
        "parts.weight": w["x_proj.weight"],
        "step.weight": w["dt_proj.weight"],
        "step_bias": w["dt_proj.bias"],
        "A_log": w["A_log"],
        "skip": w["D"],
        "output.weight": w["out_proj.weight"],
    }
    for i, name in enumerate(("dt", "b", "c")) if norms == "weighted" else ():
        weights[f"norms.{i}.weight"] = w[f"{name}_layernorm.weight"]
    ours.load_state_dict(weights)
    x = torch.randn(2, 19, 12)
    y = source(x)
    assert_equal_to_rounding(ours(x)[0], y[0] if isinstance(y, tuple) else y, "y")
