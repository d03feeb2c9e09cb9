"""Compiled blocks: the same numbers, names and checkpoints, code for several shapes, and refusals in words."""

from dataclasses import replace

import pytest
import torch
from curves import MIXERS
from safetensors.torch import load_file
from small import small_config

from closeness import assert_as_good_as, assert_equal_to_rounding
from matrixstate.cli.resume import accept_changes
from matrixstate.data.tasks import ParityConfig
from matrixstate.errors import ConfigError
from matrixstate.layers import MLPConfig, MoEConfig
from matrixstate.mixers import GRUConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig
from matrixstate.training import TaskRunConfig, TaskTrainingConfig, compilation, start, train
from matrixstate.training.checkpoint import find_checkpoint
from matrixstate.training.compilation import compile_blocks, compiling, uncompiled

pytestmark = [  # what PyTorch's compiler warns itself of
    pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled:UserWarning"),
]


@pytest.fixture
def traced():
    """Lets torch.compile trace and check as ever, but run what it has traced by PyTorch, with every bit as before."""
    torch.compiler.reset()
    with torch.compiler.set_stance(force_backend="eager"):
        yield torch._dynamo.utils.counters["stats"]
    torch.compiler.reset()


def curve(run):
    """Every number of the metrics but the speed."""
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in run.metrics()]


def final_weights(run):
    return load_file(find_checkpoint(run.checkpoints)[0] / "model.safetensors")


def test_a_training_is_the_same_and_goes_on_uncompiled(traced, tmp_path):
    plain, compiled = (start(tmp_path / str(c), small_config(tmp_path, compile=c)) for c in (False, True))
    train(plain)
    before = traced["unique_graphs"]
    train(compiled, stop_after=11)
    assert traced["unique_graphs"] == before + 2  # one for each block: none for evaluations and measured states
    assert accept_changes(compiled, plain.config, ("training.compile",)).config == plain.config
    train(compiled, resume=True)
    assert curve(compiled) == curve(plain)
    one, other = final_weights(plain), final_weights(compiled)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_parts_of_a_batch_are_recomputed_by_compiled_code(traced, tmp_path):
    options = {"accumulate": 2, "recompute": "blocks", "precision": "bfloat16", "steps": 3}
    plain, compiled = (start(tmp_path / str(c), small_config(tmp_path, compile=c, **options)) for c in (False, True))
    train(plain)
    train(compiled)
    assert curve(compiled) == curve(plain)


def test_one_code_is_for_all_lengths_of_a_task(traced, tmp_path):
    model = ModelConfig(16, (BlockConfig(GRUConfig(conv=0), None),), tied=False)
    training = TaskTrainingConfig(steps=12, length=64, lengths="uniform", batch=4, max_batch=64)
    config = TaskRunConfig("tiny", model, ParityConfig(), training, evaluate_length=32, evaluate_sequences=8)
    plain = start(tmp_path / "plain", config)
    compiled = start(tmp_path / "compiled", replace(config, training=replace(training, compile=True)))
    train(plain)
    before = traced["unique_graphs"]
    train(compiled)
    assert traced["unique_graphs"] == before + 1
    assert curve(compiled) == curve(plain)


def test_no_block_goes_on_uncompiled_unsaid(traced, monkeypatch):
    monkeypatch.setattr(compilation, "VARIANTS", 2)
    model = LanguageModel(ModelConfig(8, (BlockConfig(None, MLPConfig(8)),), 11))
    compile_blocks(model, dynamic=False)

    def run(length):
        with compiling(1):
            return model(torch.zeros(1, length, dtype=torch.int64))

    for length in (2, 3):
        run(length)
        with uncompiled():
            run(2 * length)
    with pytest.raises(ConfigError, match="expected at most 2 variants of a block's code, got another; train with"):
        run(9)


def test_nothing_is_written_without_a_compiler(tmp_path, monkeypatch):
    def fail(*tensors):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")

    run = start(tmp_path / "plain", small_config(tmp_path))
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    message = "training.compile: expected that torch.compile works on cpu, for which it needs a C.. compiler, "
    message += "got InvalidCxxCompiler: No working C.. compiler found$"
    with pytest.raises(ConfigError, match=message):
        start(tmp_path / "run", small_config(tmp_path, compile=True))
    assert not (tmp_path / "run").exists()
    training = replace(run.config.training, compile=True)
    with pytest.raises(ConfigError, match=message):
        train(run.reconfigure(replace(run.config, training=training)))


@pytest.mark.slow
def test_a_missing_compiler_is_found_missing(monkeypatch):
    import torch._inductor.config

    torch.compiler.reset()
    missing = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
    with missing, pytest.raises(ConfigError, match="got .*No working C.. compiler found"):
        compilation.expect_compiler(torch.device("cpu"))
    torch.compiler.reset()
    compilation.expect_compiler(torch.device("cpu"))


def loss_and_gradients(model, tokens):
    torch.manual_seed(1)
    loss = model(tokens)[0].square().mean()
    auxiliary = model.auxiliary_loss()
    found = torch.autograd.grad(loss if auxiliary is None else loss + auxiliary, list(model.parameters()))
    return [loss.detach(), *found]


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["mru cayley", "m2rnn", "attention", "conv"])
def test_compiled_losses_and_gradients_are_as_good(mixer):
    torch.compiler.reset()
    torch.manual_seed(0)
    block = BlockConfig(MIXERS[mixer], MoEConfig(12, experts=3) if mixer == "conv" else MLPConfig(20))
    model = LanguageModel(ModelConfig(16, (block, block), 11, dropout=0.2))
    other, exact = LanguageModel(model.config), LanguageModel(model.config).double()
    compile_blocks(other, dynamic=True)
    for copy in (other, exact):
        copy.load_state_dict(model.state_dict())  # the names are the same
    with compiling(2):
        for shape in ((4, 13), (3, 30)):
            tokens = torch.randint(11, shape)
            results = [loss_and_gradients(m, tokens) for m in (other, model, exact)]
            for (name, _), *found in zip([("loss", 0), *model.named_parameters()], *results, strict=True):
                assert_as_good_as(*found, name)


@pytest.mark.slow
def test_a_compiled_training_is_as_one_that_is_not(tmp_path):
    torch.compiler.reset()
    plain, compiled = (start(tmp_path / str(c), small_config(tmp_path, compile=c)) for c in (False, True))
    train(plain)
    train(compiled)
    for one, other in zip(curve(plain), curve(compiled), strict=True):
        for key in one.keys() & {"loss", "gradient_norm", "validation_loss"}:
            assert_equal_to_rounding(torch.tensor(other[key]), torch.tensor(one[key]), f"step {one['step']}: {key}")
