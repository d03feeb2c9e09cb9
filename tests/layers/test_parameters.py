"""Parameters that are treated otherwise than the rest: rates that stay float32."""

import pytest
import torch

from matrixstate.layers import M2RNNConfig, Mamba2Config, MLPConfig
from matrixstate.layers.forget_gate import ForgetGate
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig

MIXERS = {"m2rnn": M2RNNConfig(heads=2, key_size=4, value_size=8), "mamba2": Mamba2Config(heads=2, key_size=4)}


@pytest.mark.parametrize("change", [torch.nn.Module.bfloat16, torch.nn.Module.half], ids=["bfloat16", "half"])
def test_rates_of_forgetting_are_not_rounded(change):
    gate = ForgetGate(4)
    before = {name: p.detach().clone() for name, p in gate.named_parameters()}
    pointers = [id(p) for p in gate.parameters()]
    change(gate)
    assert all(torch.equal(p, before[name]) for name, p in gate.named_parameters())
    assert [id(p) for p in gate.parameters()] == pointers
    assert all(p.dtype == torch.float64 for p in gate.double().parameters())


@pytest.mark.parametrize("name", MIXERS)
def test_a_bfloat16_model_computes_with_float32_rates(name):
    model = LanguageModel(ModelConfig(16, (BlockConfig(MIXERS[name], MLPConfig(hidden=8)),), 7)).bfloat16()
    assert {n.rsplit(".", 1)[1] for n, p in model.named_parameters() if p.dtype == torch.float32} == {
        "A_log",
        "dt_bias",
    }
    tokens = torch.arange(6).view(2, 3)
    logits, state = model(tokens)
    logits.float().sum().backward()
    assert logits.dtype == torch.bfloat16
    with torch.no_grad():
        following, _ = model(tokens[:, :1], state)
    assert following.isfinite().all()
