"""Twenty training steps of every mixer, kept so that a change of numbers is seen.

python tests/golden/curves.py [NAME ...]    # redraws these curves of curves.json, or all: say in the commit why
"""

import json
import math
import sys
import zlib
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from matrixstate.layers import MLPConfig
from matrixstate.layers.state_matrix import BUILDERS
from matrixstate.mixers import (
    AarenConfig,
    ABCConfig,
    AttentionConfig,
    BlockRecurrentConfig,
    CfCConfig,
    CombaConfig,
    CosFormer2Config,
    DeltaNetConfig,
    DSSConfig,
    ELSTMConfig,
    ForgettingAttentionConfig,
    GatedConvConfig,
    GatedDeltaNet2Config,
    GatedDeltaNetConfig,
    GatedDeltaProductConfig,
    GateLoopConfig,
    GILRConfig,
    GILRLSTMConfig,
    GLAConfig,
    GRUConfig,
    GSAConfig,
    GSSConfig,
    HGRN2Config,
    HGRNConfig,
    HiPPOConfig,
    IndRNNConfig,
    KDAConfig,
    LEMConfig,
    LightNetConfig,
    LinearCDEConfig,
    LinearTransformerConfig,
    LiquidS4Config,
    LMUCellConfig,
    LMUConfig,
    LonghornConfig,
    LonghornDiagonalConfig,
    LRUConfig,
    LSSLConfig,
    LSTMConfig,
    LTCConfig,
    M2RNNConfig,
    Mamba2Config,
    MambaConfig,
    MegaEMAConfig,
    MGUConfig,
    MinGRUConfig,
    MinLSTMConfig,
    MLSTMConfig,
    MLSTMLargeConfig,
    MoMConfig,
    MRUAttentionConfig,
    MRUConfig,
    MultiplicativeLSTMConfig,
    PeepholeLSTMConfig,
    PLSTMConfig,
    QRNNConfig,
    ReGLAConfig,
    RegularLRNNConfig,
    RetNetConfig,
    RGLRUConfig,
    RNNConfig,
    RWKV4Config,
    RWKV6Config,
    RWKV7Config,
    RWKVChannelMixConfig,
    S4Config,
    S4DConfig,
    S5Config,
    SharedAttentionConfig,
    SLSTMConfig,
    SRUConfig,
    TransNormerConfig,
    URNConfig,
)
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig

FILE = Path(__file__).with_name("curves.json")
STEPS, VOCABULARY = 20, 11

MIXERS = {
    **{f"mru {builder}": MRUConfig(heads=1, state_size=16, builder=builder) for builder in BUILDERS},
    "mru bounded": MRUConfig(heads=1, state_size=16, readout="bounded", decay=True, gate=True, norm=True, conv=3),
    "mru affine": MRUConfig(
        heads=1, state_size=16, builder="cayley", rescale=False, readout="state", decay=True, write=True, skip=True
    ),
    "m2rnn": M2RNNConfig(heads=4, key_size=3, value_size=5, grad_clip=1.0),
    "m2rnn unit keys": M2RNNConfig(heads=4, key_size=16, value_size=5, unit_keys=True, residual=False),
    "attention": AttentionConfig(heads=2),
    "attention rotary window": AttentionConfig(heads=4, key_heads=2, positions="rotary", window=5),
    "attention xpos": AttentionConfig(heads=2, positions="xpos"),
    "mru attention": MRUAttentionConfig(heads=2),
    "conv": GatedConvConfig(),
    "linear transformer": LinearTransformerConfig(heads=2, key_size=4, value_size=5),
    "retnet": RetNetConfig(heads=2, key_size=4, value_size=5, input_std=0.02),
    "gla": GLAConfig(heads=2, key_size=4, value_size=5, rank=3, input_std=0.02),
    "mamba2": Mamba2Config(heads=4, key_size=4, value_size=5, groups=2),
    "hgrn2": HGRN2Config(heads=2, key_size=4, value_size=5, lower_bound=0.25),
    "rwkv6": RWKV6Config(heads=2, key_size=4, value_size=5, mix_rank=3, decay_rank=3, depth=0.5),
    "transnormer": TransNormerConfig(heads=2, key_size=4, value_size=5, depth=0.5),
    "lightnet": LightNetConfig(heads=2, key_size=4, value_size=5, rank=3),
    "cosformer2": CosFormer2Config(heads=2, key_size=8, value_size=5, rank=3, input_std=0.3),
    "regla": ReGLAConfig(heads=2, key_size=4, value_size=5),
    # a head that is normed by itself jumps with the sign of q·k where that is small; with wider keys it seldom is
    "deltanet": DeltaNetConfig(heads=2, key_size=16, value_size=5, input_std=0.1),
    "gated deltanet": GatedDeltaNetConfig(heads=2, key_size=8, value_size=5, negative_eigenvalues=True, input_std=0.1),
    "gated deltaproduct": GatedDeltaProductConfig(heads=2, key_size=8, value_size=5, input_std=0.1),
    "kda": KDAConfig(heads=2, key_size=8, value_size=5, input_std=0.1),
    "rwkv7": RWKV7Config(heads=2, key_size=8, value_size=5, decay_rank=3, gate_rank=3, depth=0.5),
    "longhorn": LonghornConfig(heads=2, key_size=4, value_size=5, input_std=0.1),
    "comba": CombaConfig(heads=2, key_size=8, value_size=5, input_std=0.1),
    "gated deltanet2": GatedDeltaNet2Config(heads=2, key_size=8, value_size=5, input_std=0.1),
    "mom": MoMConfig(heads=2, key_size=8, value_size=5, input_std=0.1),
    "rnn": RNNConfig(heads=2, head_size=5, gate=True, conv=3),
    "gru": GRUConfig(heads=2, head_size=5),
    "lstm": LSTMConfig(),
    "rg lru": RGLRUConfig(heads=2),
    "min gru": MinGRUConfig(),
    "min lstm": MinLSTMConfig(),
    "hgrn": HGRNConfig(lower_bound=0.25, input_std=0.1),
    "lru": LRUConfig(states=7),
    "s5": S5Config(states=6, blocks=2),
    "gilr": GILRConfig(channels=9),
    "gilr lstm": GILRLSTMConfig(channels=9),
    "sru": SRUConfig(channels=9),
    "qrnn": QRNNConfig(channels=9),
    "gsa": GSAConfig(heads=2, key_size=4, value_size=5, slots=3),
    "abc": ABCConfig(heads=2, key_size=4, value_size=5, slots=3),
    "shared attention": SharedAttentionConfig(heads=2, positions="rotary"),
    "block recurrent": BlockRecurrentConfig(heads=2, states=3, block=4),
    "urn": URNConfig(heads=1, order=4),
    "linear cde": LinearCDEConfig(heads=2, order=3),
    "lmu cell": LMUCellConfig(order=4, window=8.0),
    "dss": DSSConfig(states=4, length=20),
    "hippo": HiPPOConfig(order=4),
    "hippo legt": HiPPOConfig(measure="legt", order=4, window=8.0),
    "lmu": LMUConfig(memories=2, order=3, window=8.0),
    "liquid s4": LiquidS4Config(states=6),
    "s4": S4Config(states=6),
    "lssl": LSSLConfig(states=4),
    "peephole lstm full gates": PeepholeLSTMConfig(heads=2, head_size=4, variant="FGR"),
    "gru low rank": GRUConfig(heads=2, head_size=5, rank=2),
    "ltc": LTCConfig(heads=2, head_size=4),
    "cfc": CfCConfig(heads=2, head_size=5),
    "cfc pure": CfCConfig(heads=2, head_size=5, variant="pure"),
    "indrnn": IndRNNConfig(heads=2, head_size=5),
    "elstm": ELSTMConfig(heads=2, head_size=5),
    "multiplicative lstm": MultiplicativeLSTMConfig(heads=2, head_size=5),
    "slstm": SLSTMConfig(heads=2, conv=3),
    "mgu": MGUConfig(heads=2, head_size=4),
    "lem": LEMConfig(heads=2, head_size=4),
    "peephole lstm": PeepholeLSTMConfig(heads=2, head_size=4),
    "regular lrnn": RegularLRNNConfig(heads=2, order=3, hidden=7),
    "s4d": S4DConfig(states=6),
    "gss": GSSConfig(channels=5, states=3),
    "mega ema": MegaEMAConfig(states=3),
    "gateloop": GateLoopConfig(channels=8, real=True),  # the training of complex decays is chaotic
    "hgrn complex": HGRNConfig(channels=9, phase=True),
    "mamba": MambaConfig(states=4),
    "longhorn diagonal": LonghornDiagonalConfig(states=4),
    "forgetting attention": ForgettingAttentionConfig(heads=2),
    "forgetting attention pro": ForgettingAttentionConfig(heads=2, pro=True),
    "mlstm": MLSTMConfig(heads=1, expand=3, conv=3),  # other sizes of both make this training chaotic
    "mlstm large": MLSTMLargeConfig(heads=1, key_size=4, value_size=4),
    "plstm": PLSTMConfig(heads=2, key_size=4, value_size=5),
    "rwkv4": RWKV4Config(),
    "rwkv channel mix": RWKVChannelMixConfig(),
    "aaren": AarenConfig(heads=2),
}


def golden_model(name: str) -> LanguageModel:
    """A model whose every number is a small integer times a power of two, so that no processor rounds it otherwise.

    `torch.randn`, `log` and QR give other last digits under other instruction sets; integers drawn from a generator
    do not. Each tensor keeps the mean and about the spread of its initialisation, and a constant one its value.
    """
    block = BlockConfig(MIXERS[name], MLPConfig(hidden=20))
    model = LanguageModel(ModelConfig(16, (block, block), VOCABULARY))
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_((buffer.double() * 64).round() / 64)
        for key, parameter in model.named_parameters():
            values = parameter.double()
            if (spread := (values - values.mean()).square().mean().sqrt().item()) < 1e-6:
                parameter.copy_((values * 64).round() / 64)
                continue
            unit = 2.0 ** round(math.log2(spread / 5))  # 5: the spread of integers from -8 to 8
            generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
            integers = torch.randint(-8, 9, parameter.shape, generator=generator)
            parameter.copy_(round(values.mean().item() * 16) / 16 + unit * integers)
    return model


def curve(name: str, dtype: torch.dtype, scale: float = 1.0) -> list[float]:
    """The losses of twenty steps from the same weights and tokens everywhere; `scale` multiplies every weight."""
    torch.manual_seed(0)
    model = golden_model(name).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= scale
    # a large eps, or Adam makes whole steps of gradients that are nothing but rounding
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, eps=1e-3)
    # a text to learn: every third token repeats the one before the last
    tokens = torch.randint(VOCABULARY, (4, 13), generator=torch.Generator().manual_seed(1))
    tokens[:, 2::3] = tokens[:, 0:11:3]
    losses = []
    for _ in range(STEPS):
        logits, _ = model(tokens[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    kept, redrawn = json.loads(FILE.read_text()), sys.argv[1:] or list(MIXERS)
    kept.update({name: [f"{x:.13e}" for x in curve(name, torch.float64)] for name in redrawn})
    FILE.write_text(json.dumps({name: kept[name] for name in MIXERS}, indent=0))
    sys.stdout.write(f"{FILE}: {len(redrawn)} curves of {STEPS} steps\n")
