"""Activation recomputation: every bit of losses and gradients as without it, and less memory."""

import pytest
import torch
from curves import MIXERS

from matrixstate.layers import MLPConfig, MoEConfig
from matrixstate.mixers import GatedConvConfig, M2RNNConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig
from matrixstate.ops import prefer

MIXTURE = MoEConfig(hidden=12, experts=3, active=2, balance=0.1)


def model_of(mixer, mlp=None, recompute=False, **options):
    torch.manual_seed(0)
    block = BlockConfig(mixer, mlp or MLPConfig(hidden=20))
    model = LanguageModel(ModelConfig(16, (block, block), 11, dropout=0.3, **options))
    model.recompute = recompute
    return model


def results(model, parts=1):
    """Losses, gradients and random state of two calls, the second from the state of the first, with documents."""
    torch.manual_seed(1)
    random, state, found = torch.Generator().manual_seed(0), None, []
    for _ in range(2):
        tokens = torch.randint(11, (4, 9), generator=random)
        mask, reset = (torch.rand(4, 9, generator=random) < share for share in (0.9, 0.2))
        logits, state = model(tokens, state, mask=mask, reset=reset)
        auxiliary = model.auxiliary_loss()
        found.append(logits[mask].square().mean() + (0 if auxiliary is None else auxiliary))
    sum(found).backward()
    for part in torch.randint(11, (4, 9), generator=random).chunk(parts):
        model(part)[0].square().mean().backward()
    gradients = [torch.zeros(0) if p.grad is None else p.grad for p in model.parameters()]
    return [*(loss.detach() for loss in found), *gradients, torch.get_rng_state()]


@pytest.mark.parametrize("name", MIXERS)
def test_every_gradient_has_the_same_bits(name):
    kept, again = (results(model_of(MIXERS[name], recompute=recompute), parts=2) for recompute in (False, True))
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_experts_are_chosen_and_balanced_as_before(precision):
    found = []
    for recompute in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            model = model_of(GatedConvConfig(), MIXTURE, recompute)
            found.append(results(model))
            model(torch.zeros(2, 9, dtype=torch.int64))
            losses = [block.mlp.balance_loss for block in model.layers]
            model.auxiliary_loss().backward()
        assert all(block.mlp.balance_loss is loss for block, loss in zip(model.layers, losses, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def kept_bytes(model):
    """Bytes that a forward pass keeps for its backward pass, parameters aside."""
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        logits = model(torch.zeros(4, 64, dtype=torch.int64))[0]
    assert logits.requires_grad
    return sum(size for place, size in kept.items() if place not in own)


def test_only_the_inputs_of_blocks_are_kept():
    mixer = M2RNNConfig(heads=2, key_size=8, value_size=8)
    kept, again = (kept_bytes(model_of(mixer, recompute=recompute)) for recompute in (False, True))
    assert again < kept / 4


def test_nothing_is_computed_again_without_a_backward_pass(monkeypatch):
    from matrixstate.models import lm

    monkeypatch.delattr(lm, "recomputed")
    model, tokens = model_of(GatedConvConfig(), recompute=True), torch.zeros(1, 3, dtype=torch.int64)
    with torch.no_grad():
        model(tokens)
    model.eval()(tokens)
    with pytest.raises(NameError):
        model.train()(tokens)


def test_the_backends_of_the_forward_pass_are_those_of_the_second():
    model = model_of(M2RNNConfig(heads=2, key_size=3, value_size=5), recompute=True)
    with prefer("reference"):
        loss = model(torch.zeros(2, 9, dtype=torch.int64))[0].square().mean()
    loss.backward()  # raises if another backend saves other tensors
