"""Graphs of torch.export that hold for any length: the chunked forms, and attention."""

import pytest
import torch
from cases import CASES, copy

from closeness import assert_equal_to_rounding
from matrixstate.mixers import AttentionConfig, GatedDeltaNetConfig, GLAConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig
from matrixstate.ops import prefer

TRACEABLE = [case for case in CASES if case.backend == "chunked" or case.op == "attention"]
LENGTHS = (2, 3, 4, 5, 16, 19)  # chunks have four steps


def drawn(case, T, resets):
    reset = torch.rand(2, T, generator=torch.Generator().manual_seed(T)) < 0.2 if resets else None
    return copy(case.sequence(T, case.dtype)), copy(case.fixed(case.dtype)), case.state(case.dtype), reset


@pytest.mark.slow
@pytest.mark.parametrize("resets", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("case", TRACEABLE, ids=lambda case: case.name)
def test_an_exported_op_takes_any_length(case, resets):
    class Op(torch.nn.Module):
        def forward(self, sequence, fixed, state, reset):
            return case.call(sequence, fixed, state, reset=reset, backend=case.backend)

    T = torch.export.Dim("T", min=2)
    inputs = drawn(case, 11, resets)
    fixed = torch.utils._pytree.tree_map(lambda _: None, inputs[1:3])
    shapes = ({name: {1: T} for name in inputs[0]}, *fixed, {1: T} if resets else None)
    exported = torch.export.export(Op(), inputs, dynamic_shapes=shapes).module()
    for length in LENGTHS:
        inputs = drawn(case, length, resets)
        flat = [torch.utils._pytree.tree_leaves(run(*inputs)) for run in (exported, Op())]
        for got, expected in zip(*flat, strict=True):
            if got.is_floating_point():
                assert_equal_to_rounding(got, expected, f"T = {length}")
            else:
                assert torch.equal(got, expected)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    "mixer",
    [
        GLAConfig(heads=2, key_size=4, value_size=8),
        GatedDeltaNetConfig(heads=2, key_size=4, value_size=8),
        AttentionConfig(heads=2, positions="rotary"),
    ],
    ids=["gla", "gated deltanet", "attention"],
)
def test_an_exported_model_takes_any_batch_and_length_and_has_no_compiled_kernel(mixer):
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(16, (BlockConfig(mixer),), vocabulary=11)).eval()
    sizes = {0: torch.export.Dim("B", min=2), 1: torch.export.Dim("T", min=2)}
    with prefer("chunked", "sdpa", "reference"):
        exported = torch.export.export(model, (torch.randint(11, (3, 37)),), dynamic_shapes={"tokens": sizes})
        assert not [node for node in exported.graph.nodes if "matrixstate" in str(node.target)]
        for B, T in ((2, 5), (4, 64), (3, 150)):
            tokens = torch.randint(11, (B, T))
            assert_equal_to_rounding(exported.module()(tokens)[0], model(tokens)[0], f"B = {B}, T = {T}")
