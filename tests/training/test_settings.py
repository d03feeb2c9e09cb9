"""What a run sets for PyTorch: for its time alone, with the same bits on a CPU, refused where it cannot be."""

import os
from dataclasses import replace

import pytest
import torch
from listeners import Listener
from small import small_config

from matrixstate.errors import ConfigError
from matrixstate.layers import MoEConfig
from matrixstate.layers.linear import Linear
from matrixstate.mixers import GatedConvConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig
from matrixstate.ops import _chunks, _dispatch
from matrixstate.ops.linear_map import kernel_tf32
from matrixstate.training import start, train
from matrixstate.training.runtime import Runtime
from matrixstate.training.settings import WORKSPACE, expect_settings


class Watch(Listener):
    """Records, at every step, whether only deterministic algorithms are allowed."""

    def __init__(self):
        self.deterministic = set()

    def step(self, *numbers, **observed):
        self.deterministic.add(torch.are_deterministic_algorithms_enabled())


@pytest.mark.parametrize(("before", "warns"), [(False, False), (True, True)])
def test_a_deterministic_run_leaves_pytorch_as_it_was_and_changes_no_bit_on_a_cpu(before, warns, tmp_path):
    found = {}
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(before, warn_only=warns)
        run, watch = start(tmp_path / str(deterministic), small_config(tmp_path, deterministic=deterministic)), Watch()
        train(run, [watch])
        assert watch.deterministic == {deterministic or before}
        assert torch.are_deterministic_algorithms_enabled() == before
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warns
        found[deterministic] = [(line.get("loss"), line.get("gradient_norm")) for line in run.metrics()]
    assert found[False] == found[True]


def test_the_workspace_of_cublas_is_fixed_before_cuda_starts(tmp_path, monkeypatch):
    config, cuda = small_config(tmp_path, deterministic=True), torch.device("cuda")
    monkeypatch.setenv(WORKSPACE, ":16:8")
    expect_settings(config, cuda)
    assert os.environ[WORKSPACE] == ":16:8"
    monkeypatch.setenv(WORKSPACE, ":0:0")
    message = "deterministic: expected CUBLAS_WORKSPACE_CONFIG in the environment to be :4096:8 or :16:8 before CUDA "
    with pytest.raises(ConfigError, match=message + "starts, got :0:0"):
        expect_settings(config, cuda)
    monkeypatch.delenv(WORKSPACE)
    expect_settings(small_config(tmp_path), cuda)
    expect_settings(config, torch.device("cpu"))
    assert WORKSPACE not in os.environ
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ConfigError, match=message + "starts, got none"):
        expect_settings(config, cuda)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    expect_settings(config, cuda)
    assert os.environ[WORKSPACE] == ":4096:8"


@pytest.mark.parametrize("shape", [(2, 3, 2, 5), (2, 3, 2, 5, 4)], ids=str)
def test_decays_are_summed_without_cumsum_where_that_is_not_deterministic(shape):
    class Elsewhere(torch.Tensor):
        """A tensor that says it is on a GPU, and refuses cumsum as one does."""

        device = torch.device("cuda")

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            assert "cumsum" not in str(function)
            return super().__torch_function__(function, types, args, kwargs)

    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(_chunks._running_sums(x.as_subclass(Elsewhere)).as_subclass(torch.Tensor), x.cumsum(3))


def test_tf32_is_refused_where_it_is_not(tmp_path, monkeypatch):
    config = small_config(tmp_path, precision="tf32")
    with pytest.raises(
        ConfigError, match="expected float32, bfloat16 or auto on cpu, got tf32, a number format of NVID"
    ):
        start(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    run = start(tmp_path / "plain", small_config(tmp_path))
    with pytest.raises(ConfigError, match="got tf32, a number format"):  # resumed on another machine
        train(run.reconfigure(replace(run.config, training=replace(run.config.training, precision="tf32"))))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ConfigError, match="on cuda, got tf32, which begins with compute capability 8.0; it has 7.5"):
        expect_settings(config, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    expect_settings(config, torch.device("cuda"))


@pytest.mark.parametrize("recompute", [False, True])
def test_projections_alone_are_in_tf32_and_in_training_alone(recompute, monkeypatch):
    products, operator = [], kernel_tf32.linear
    monkeypatch.setattr(kernel_tf32, "unsupported", lambda *_: None)
    monkeypatch.setattr(kernel_tf32, "linear", lambda x, w, b: products.append(w) or operator(x, w, b))
    _dispatch._load_preferred.cache_clear()
    _dispatch._choose.cache_clear()
    model = LanguageModel(ModelConfig(16, (BlockConfig(GatedConvConfig(), MoEConfig(8, experts=2, shared=4)),), 11))
    Runtime("tf32").place(model)
    model.recompute = recompute
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    (gradient,) = torch.autograd.grad(model(tokens)[0].square().mean(), [model.embedding.weight])
    expected = {m.weight for m in model.modules() if isinstance(m, Linear)} - {model.blocks[0].mlp.router.weight}
    assert set(products) == expected
    assert len(products) == (2 * len(expected) - 1 if recompute else len(expected))  # the head is not in a block
    products.clear()
    model.eval()(tokens)
    assert not products
    _dispatch._load_preferred.cache_clear()
    _dispatch._choose.cache_clear()
    assert gradient.isfinite().all()
