"""Mixers with the weights of Hugging Face transformers' models give the same. Theirs compute in float32 inside."""

import math
import sys

import pytest
import torch
from weights import drawn, mamba_weights

from closeness import assert_equal_to_rounding
from matrixstate.layers import MLPConfig
from matrixstate.mixers import (
    AttentionConfig,
    GatedDeltaNetConfig,
    KDAConfig,
    Mamba2Config,
    MambaConfig,
    MLSTMLargeConfig,
    RGLRUConfig,
    RWKV4Config,
    RWKVChannelMixConfig,
    TransNormerConfig,
)
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig


@pytest.fixture
def in_pytorch(published, monkeypatch):
    """A module of transformers with its functions in PyTorch: where it finds these, it takes theirs for a GPU."""
    for package in ("fla", "xlstm"):
        monkeypatch.setitem(sys.modules, package, None)
    return published


MAMBA2 = {"num_heads": 4, "head_dim": 3, "state_size": 5, "expand": 1, "layer_norm_epsilon": 1e-5}
BAMBA = {"mamba_n_heads": 4, "mamba_d_head": 3, "mamba_d_state": 5, "mamba_expand": 1, "rms_norm_eps": 1e-5}
NEMOTRON_H = {"mamba_num_heads": 4, "mamba_head_dim": 3, "ssm_state_size": 5, "use_mamba_kernels": False}


@pytest.mark.parametrize(
    ("model", "mixer", "groups", "options"),
    [
        ("mamba2", "Mamba2Mixer", 1, {**MAMBA2, "n_groups": 1, "chunk_size": 8}),
        ("mamba2", "Mamba2Mixer", 2, {**MAMBA2, "n_groups": 2, "chunk_size": 8}),
        ("bamba", "BambaMixer", 2, {**BAMBA, "mamba_n_groups": 2, "mamba_chunk_size": 8}),
        (
            "nemotron_h",
            "NemotronHMamba2Mixer",
            2,
            {**NEMOTRON_H, "n_groups": 2, "chunk_size": 8, "layer_norm_epsilon": 1e-5},
        ),
    ],
)
def test_mamba2(model, mixer, groups, options, published):
    """They norm as many groups of heads as B and C have heads. Nemotron-H keeps Δ above what is not reached here."""
    theirs = published(f"transformers.models.{model}.modeling_{model}")
    width, heads, K, V = 12, 4, 5, 3
    names = {"mamba2": "Mamba2Config", "bamba": "BambaConfig", "nemotron_h": "NemotronHConfig"}
    config = getattr(theirs, names[model])(hidden_size=width, **options)
    source = drawn(getattr(theirs, mixer)(config, layer_idx=0))
    ours = Mamba2Config(heads=heads, key_size=K, value_size=V, groups=groups, norm_groups=groups).make(width)
    w = source.state_dict()
    gate, inputs, step = w["in_proj.weight"].split([heads * V, heads * V + 2 * groups * K, heads])
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


def test_rwkv_channel_mix(published):
    theirs = published("transformers.models.rwkv.modeling_rwkv")
    source = drawn(theirs.RwkvFeedForward(theirs.RwkvConfig(hidden_size=12, intermediate_size=20, num_hidden_layers=2)))
    ours = RWKVChannelMixConfig(hidden=20).make(12)
    w = source.state_dict()
    ours.load_state_dict(
        {
            "mixes": torch.cat([w["time_mix_key"], w["time_mix_receptance"]])[:, 0],
            "key.weight": w["key.weight"],
            "read.weight": w["receptance.weight"],
            "output.weight": w["value.weight"],
        }
    )
    x = torch.randn(2, 19, 12)
    assert_equal_to_rounding(ours(x)[0], source(x)[0], "y")


def test_mlstm_large(in_pytorch):
    theirs = in_pytorch("transformers.models.xlstm.modeling_xlstm")
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


def qwen3_next_rows(w, width, G, H, K, V):
    """q, k and v, gate, beta and forget from rows that they group by key head."""
    n = H // G
    parts = w["in_proj_qkvz.weight"].view(G, -1, width).split([K, K, n * V, n * V], dim=1)
    q, k, v, gate = (part.flatten(0, 1) for part in parts)
    beta, forget = (part.flatten(0, 1) for part in w["in_proj_ba.weight"].view(G, 2 * n, width).chunk(2, dim=1))
    return torch.cat([q, k, v]), gate, beta, forget, w["norm.weight"], w["out_proj.weight"]


def olmo_hybrid_rows(w, *sizes):
    inputs = torch.cat([w[f"{part}_proj.weight"] for part in "qkv"])
    return inputs, *(w[f"{part}.weight"] for part in ("g_proj", "b_proj", "a_proj", "o_norm", "o_proj"))


@pytest.mark.parametrize(
    ("model", "mixer", "rows", "key_heads", "negative"),
    [
        ("qwen3_next", "Qwen3NextGatedDeltaNet", qwen3_next_rows, 2, False),
        ("olmo_hybrid", "OlmoHybridGatedDeltaNet", olmo_hybrid_rows, 4, False),
        ("olmo_hybrid", "OlmoHybridGatedDeltaNet", olmo_hybrid_rows, 4, True),
    ],
)
def test_gated_deltanet(model, mixer, rows, key_heads, negative, in_pytorch):
    """With small keys, so that what they add to the squared lengths counts: without `unit_eps` the results differ."""
    theirs = in_pytorch(f"transformers.models.{model}.modeling_{model}")
    width, H, K, V = 12, 4, 3, 5
    options = {"linear_allow_neg_eigval": negative} if model == "olmo_hybrid" else {}
    config = getattr(theirs, mixer.replace("GatedDeltaNet", "Config"))(
        hidden_size=width,
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=key_heads,
        linear_num_value_heads=H,
        linear_key_head_dim=K,
        linear_value_head_dim=V,
        rms_norm_eps=1e-5,
        **options,
    )
    source = drawn(getattr(theirs, mixer)(config, layer_idx=0))
    with torch.no_grad():
        source.conv1d.weight[: 2 * key_heads * K] *= 1e-2
    sizes = {"heads": H, "key_size": K, "value_size": V, "key_heads": key_heads}
    ours = GatedDeltaNetConfig(**sizes, negative_eigenvalues=negative, unit_eps=1e-6).make(width)
    w = source.state_dict()
    names = ("inputs.projection", "gate", "beta", "forget", "norm", "output")
    ours.load_state_dict(
        {f"{name}.weight": weight for name, weight in zip(names, rows(w, width, key_heads, H, K, V), strict=True)}
        | {"inputs.conv.weight": w["conv1d.weight"][:, 0]}
        | {f"forget_gate.{name}": w[name] for name in ("A_log", "dt_bias")}
    )
    x = torch.randn(2, 19, width)
    assert_equal_to_rounding(ours(x)[0], source(x), "y")


def test_kda(in_pytorch):
    theirs = in_pytorch("transformers.models.kimi_linear.modeling_kimi_linear")
    width, heads, size = 12, 2, 3
    config = theirs.KimiLinearConfig(
        hidden_size=width,
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
        linear_num_heads=heads,
        linear_head_dim=size,
        linear_conv_kernel_dim=4,
        rms_norm_eps=1e-5,
    )
    source = drawn(theirs.KimiLinearDeltaAttention(config, layer_idx=0))
    with torch.no_grad():
        source.conv1d.weight[: 2 * heads * size] *= 1e-2
    ours = KDAConfig(heads=heads, key_size=size, value_size=size, unit_eps=1e-6).make(width)
    w = source.state_dict()
    ours.load_state_dict(
        {
            "inputs.projection.weight": torch.cat([w[f"{part}_proj.weight"] for part in "qkv"]),
            "inputs.conv.weight": w["conv1d.weight"][:, 0],
            "forget.first.weight": w["forget_gate.f_a_proj.weight"],
            "forget.second.weight": w["forget_gate.f_b_proj.weight"],
            "forget_gate.A_log": w["forget_gate.A_log"].view(heads, 1),
            "forget_gate.dt_bias": w["forget_gate.dt_bias"].view(heads, size),
            "beta.weight": w["b_proj.weight"],
            "gate.first.weight": w["g_a_proj.weight"],
            "gate.second.weight": w["g_b_proj.weight"],
            "gate.bias": torch.zeros(heads * size),  # theirs has none here
            "norm.weight": w["o_norm.weight"],
            "output.weight": w["o_proj.weight"],
        }
    )
    x = torch.randn(2, 19, width)
    assert_equal_to_rounding(ours(x)[0], source(x), "y")


def test_lightning_attention(published):
    theirs = published("transformers.models.minimax.modeling_minimax")
    width, heads, size, layers = 12, 3, 4, 5
    config = theirs.MiniMaxConfig(
        hidden_size=width, num_attention_heads=heads, head_dim=size, num_hidden_layers=layers, block_size=8
    )
    source = drawn(theirs.MiniMaxLightningAttention(config, layer_idx=1))
    sizes = {"heads": heads, "key_size": size, "value_size": size}
    ours = TransNormerConfig(**sizes, depth=1 / (layers - 1), lightning=True).make(width)
    w = source.state_dict()
    rows = w["qkv_proj.weight"].view(heads, 3, size, width).transpose(0, 1)  # theirs are by head
    ours.load_state_dict(
        {
            "inputs.projection.weight": rows.reshape(-1, width),
            "gate.weight": w["output_gate.weight"],
            "norm.weight": w["norm.weight"],
            "output.weight": w["out_proj.weight"],
        }
    )
    x = torch.randn(2, 19, width)
    # they add 1e-6 to the mean square, and 1e-5 to a decay
    assert_equal_to_rounding(ours(x)[0], source(x, None, None)[0], "y")


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
    names = [f"{part}_layernorm" for part in ("dt", "b", "c")] if norms == "weighted" else []
    ours.load_state_dict(mamba_weights(source.state_dict(), names))
    x = torch.randn(2, 19, 12)
    y = source(x)
    assert_equal_to_rounding(ours(x)[0], y[0] if isinstance(y, tuple) else y, "y")


def from_recurrent_gemma(w):
    """The weights of our model from those of RecurrentGemma, by name."""
    layers = sorted({int(name.split(".")[2]) for name in w if ".layers." in name})
    renamed = {"embedding.weight": w["model.embed_tokens.weight"], "head.weight": w["lm_head.weight"]}
    renamed["norm.weight"] = 1 + w["model.final_norm.weight"]  # theirs is a distance from 1
    for i in layers:
        prefix = f"model.layers.{i}."
        theirs = {name.removeprefix(prefix): v for name, v in w.items() if name.startswith(prefix)}
        mlp, mixer = recurrent_gemma_mlp(theirs), recurrent_gemma_mixer(theirs)
        ours = {f"mlp.{name}": v for name, v in mlp.items()} | {f"mixer.{name}": v for name, v in mixer.items()}
        ours["mixer_norm.weight"] = 1 + theirs["temporal_pre_norm.weight"]
        ours["mlp_norm.weight"] = 1 + theirs["channel_pre_norm.weight"]
        renamed |= {f"blocks.{i}.{name}": v for name, v in ours.items()}
    return renamed


def recurrent_gemma_mlp(w):
    w = {name.removeprefix("mlp_block."): v for name, v in w.items()}
    return {
        "input.weight": torch.cat([w["gate_proj.weight"], w["up_proj.weight"]]),
        "input.bias": torch.cat([w["gate_proj.bias"], w["up_proj.bias"]]),
        "output.weight": w["down_proj.weight"],
        "output.bias": w["down_proj.bias"],
    }


def recurrent_gemma_mixer(w):
    w = {name.removeprefix("temporal_block."): v for name, v in w.items()}
    if "o_proj.weight" in w:
        inputs = torch.cat([w[f"{part}_proj.weight"] for part in "qkv"])
        return {"input.weight": inputs, "output.weight": w["o_proj.weight"], "output.bias": w["o_proj.bias"]}
    return {
        "input.weight": w["linear_x.weight"],
        "input.bias": w["linear_x.bias"],
        "gate.weight": w["linear_y.weight"],
        "gate.bias": w["linear_y.bias"],
        "conv.weight": w["conv_1d.weight"][:, 0],
        "conv.bias": w["conv_1d.bias"],
        "gates": torch.stack([w["rg_lru.recurrent_gate_weight"], w["rg_lru.input_gate_weight"]]),
        "gates_bias": torch.stack([w["rg_lru.recurrent_gate_bias"], w["rg_lru.input_gate_bias"]]),
        "rate": w["rg_lru.recurrent_param"],
        "output.weight": w["linear_out.weight"],
        "output.bias": w["linear_out.bias"],
    }


def test_recurrent_gemma(published):
    """The whole model: recurrences, local attention, MLPs, norms, and the scale and the cap around them."""
    theirs = published("transformers.models.recurrent_gemma.modeling_recurrent_gemma")
    width, hidden, heads, window, tokens, cap = 16, 24, 2, 5, 11, 3.0
    config = theirs.RecurrentGemmaConfig(
        num_hidden_layers=4,
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=2 * hidden,  # they halve it
        num_attention_heads=heads,
        num_key_value_heads=1,
        attention_window_size=window,
        logits_soft_cap=cap,
        rms_norm_eps=1e-5,
    )
    source = drawn(theirs.RecurrentGemmaForCausalLM(config))
    rotary = {"positions": "rotary", "rotary_channels": width // heads // 2}
    mixers = {
        "r": RGLRUConfig(heads=heads, bias=True),
        "a": AttentionConfig(heads, 1, window=window, output_bias=True, **rotary),
    }
    mlp = MLPConfig(hidden, "geglu_tanh", bias=True)
    blocks = tuple(BlockConfig(mixers[kind], mlp) for kind in "rrar")
    scale = math.sqrt(width)  # theirs is rounded to bfloat16, which holds 4
    ours = LanguageModel(ModelConfig(width, blocks, tokens, norm="rms", embedding_scale=scale, logit_cap=cap))
    ours.load_state_dict(from_recurrent_gemma(source.state_dict()))
    x = torch.randint(tokens, (2, 19))
    logits = source(x, use_cache=False).logits
    assert logits.abs().max() < cap
    assert_equal_to_rounding(ours(x)[0], logits, "logits")
