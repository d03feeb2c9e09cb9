"""The fourth stage: models of about 100M parameters, in training and in generation."""

import itertools
import time
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from gpu.stage import Stage
from matrixstate.layers import MixerConfig, MLPConfig
from matrixstate.mixers import AttentionConfig, GatedDeltaNetConfig, M2RNNConfig, MRUConfig
from matrixstate.models import BlockConfig, Generation, LanguageModel, ModelConfig, Sampling, SavedState, begin
from matrixstate.models.presets import MRU_BEST

WIDTH, DEPTH, VOCABULARY, HIDDEN = 768, 12, 32_768, 2048
BATCH, SEQUENCE, STEPS = 8, 2048, 5
POSITIONS, TOKENS = (100, 1000, 10_000, 100_000), 50
M2RNN = M2RNNConfig(heads=48, key_size=64, value_size=16, grad_clip=1.0)
ATTENTION = AttentionConfig(heads=12, positions="rotary")
DELTA = GatedDeltaNetConfig(heads=6, key_size=128, value_size=128)
MODELS: dict[str, tuple[MixerConfig, ...]] = {  # the mixers of the layers, repeated to the depth
    "MRU": (MRUConfig(heads=12),),
    "MRU, Cayley with decay": (MRU_BEST,),
    "M²RNN": (M2RNN,),
    "Gated DeltaNet hybrid": (DELTA, DELTA, DELTA, ATTENTION),
    "attention": (ATTENTION,),
}


def make(mixers: tuple[MixerConfig, ...], tiny: bool) -> LanguageModel:
    torch.manual_seed(0)
    depth = len(mixers) if tiny else DEPTH
    layers = tuple(
        BlockConfig(m, MLPConfig(HIDDEN, "swiglu")) for m in itertools.islice(itertools.cycle(mixers), depth)
    )
    return LanguageModel(ModelConfig(WIDTH, layers, 99 if tiny else VOCABULARY, norm="rms"))


def train(stage: Stage, mixers: tuple[MixerConfig, ...]) -> dict[str, Any]:
    """Tokens per second of whole steps: forward and backward under autocast, clipping, AdamW."""
    model = make(mixers, stage.tiny)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=stage.device.type == "cuda")
    batch, sequence = (2, 8) if stage.tiny else (BATCH, SEQUENCE)
    tokens = torch.randint(model.config.vocabulary or 1, (batch, sequence + 1))

    def step() -> None:
        with torch.autocast(stage.device.type, torch.bfloat16):
            logits, _ = model(tokens[:, :-1])
        cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    stage.peak_memory()
    seconds = stage.seconds([step], least=0.0 if stage.tiny else 2.0)
    size = sum(p.numel() for p in parameters) / 1e6
    return {"M parameters": size, "tokens/s": batch * sequence / seconds, "peak GB": stage.peak_memory()}


def generate(stage: Stage, mixers: tuple[MixerConfig, ...]) -> dict[str, Any]:
    """Tokens per second of one text at several positions, and of 64 texts at the first."""
    model = make(mixers, stage.tiny).eval()
    found: dict[str, Any] = {}
    positions = (5,) if stage.tiny else POSITIONS
    start = begin(model, [[1]])
    for position in positions:
        start = _advance(model, start, position)
        found[f"at {position:,}"] = _rate(model, start)
    found["64 texts"] = 64 * _rate(model, _advance(model, begin(model, [[1]] * 64), positions[0]))
    return found


@torch.no_grad()
def _advance(model: LanguageModel, start: SavedState, position: int) -> SavedState:
    """The state after a text of that length, read in pieces."""
    state, at = start.state, int(start.state.position.max())
    while at < position:
        n = min(2048, position - at)
        _, state = model.features(torch.randint(99, (len(start.pending), n)), state)
        at += n
    return SavedState(state, start.pending, start.random, start.past)


def _rate(model: LanguageModel, start: SavedState) -> float:
    tokens = Generation(model, start, Sampling())
    for _ in range(3):  # the first of which record the graph
        next(tokens)
    began = time.perf_counter()
    for _ in range(TOKENS):
        next(tokens)  # which is on the CPU, so that the GPU has finished
    return TOKENS / (time.perf_counter() - began)


def main() -> None:
    stage = Stage("models", f"Models of about 100M parameters, B {BATCH}, T {SEQUENCE}, bfloat16")
    for name, mixers in MODELS.items():
        stage.attempt("training", {"model": name}, partial(train, stage, mixers))
        if stage.device.type == "cuda":
            torch.cuda.empty_cache()
    for name, mixers in MODELS.items():
        stage.attempt("generation, tokens/s", {"model": name}, partial(generate, stage, mixers))


if __name__ == "__main__":
    main()
