"""Parameters with special treatment: decay rates that stay float32, float32 norms, offloaded parameters."""

import pytest
import torch

from matrixstate.layers import MLPConfig
from matrixstate.layers.forget_gate import ForgetGate
from matrixstate.layers.norm import RMSNorm
from matrixstate.mixers import LMU, M2RNN, MRU, GatedConv, M2RNNConfig, Mamba2Config
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig

MIXERS = {"m2rnn": M2RNNConfig(heads=2, key_size=4, value_size=8), "mamba2": Mamba2Config(heads=2, key_size=4)}


@pytest.mark.parametrize("change", [torch.nn.Module.bfloat16, torch.nn.Module.half], ids=["bfloat16", "half"])
def test_decay_rates_are_not_rounded(change):
    gate = ForgetGate(4)
    before = {name: p.detach().clone() for name, p in gate.named_parameters()}
    pointers = [id(p) for p in gate.parameters()]
    change(gate)
    assert all(torch.equal(p, before[name]) for name, p in gate.named_parameters())
    assert [id(p) for p in gate.parameters()] == pointers
    assert all(p.dtype == torch.float64 for p in gate.double().parameters())


def test_constants_of_a_recurrence_are_not_rounded():
    mixer = LMU(8, memories=2, order=5, window=9.0)
    before = {name: buffer.clone() for name, buffer in mixer.named_buffers()}
    assert before.keys() == {"transition", "write"}
    assert all(torch.equal(buffer, before[name]) for name, buffer in mixer.bfloat16().named_buffers())
    assert all(buffer.dtype == torch.float64 for buffer in mixer.double().buffers())
    assert mixer.output.weight.dtype == torch.float64


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


@pytest.mark.parametrize("name", MIXERS)
def test_float32_norms_fit_between_bfloat16_layers(name):
    model = LanguageModel(ModelConfig(16, (BlockConfig(MIXERS[name], MLPConfig(hidden=8)),), 7)).bfloat16()
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.float()
    logits, _ = model(torch.arange(6).view(2, 3))
    assert logits.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert RMSNorm(16)(torch.ones(3, 16).bfloat16()).dtype == torch.float32


def offload(module):
    """Keep the module's own parameters on the meta device except during its forward, as offloading libraries do."""
    real, forward = dict(module._parameters), module.forward
    empty = {n: None if p is None else torch.nn.Parameter(p.detach().to("meta")) for n, p in real.items()}

    def with_parameters(*inputs, **options):
        module._parameters.update(real)
        try:
            return forward(*inputs, **options)
        finally:
            module._parameters.update(empty)

    module.forward = with_parameters
    module._parameters.update(empty)


@pytest.mark.parametrize("kind", [M2RNN, MRU, GatedConv])
@torch.no_grad()
def test_one_token_through_offloaded_parameters(kind):
    options = {"heads": 2, "conv": 3, "norm": True, "state_size": 8} if kind is MRU else {}
    mixer = kind(16, **({"heads": 2, "key_size": 4, "value_size": 8} if kind is M2RNN else options))
    x = torch.randn(2, 1, 16)
    expected, _ = mixer(x)
    for module in mixer.modules():
        offload(module)
    torch.testing.assert_close(mixer(x)[0], expected)
