"""Mixture of memories: several states with a delta rule, of which a router picks a few for every token."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import silu

from matrixstate.layers.forget_gate import LogForgetGate
from matrixstate.layers.heads import HeadInputsConfig, KeyValueMixer, KeyValueState, l2_normalise
from matrixstate.layers.mixer import About, at_least, check_inputs, make_config, zero_padding
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.layers.router import Router
from matrixstate.layers.short_conv import ShortConv
from matrixstate.ops import gated_delta_rule


@dataclass(frozen=True)
class MoMConfig(HeadInputsConfig):
    """S^m_t is a step of Gated DeltaNet for the memories m picked at t, S^m_{t-1} for the others; y_t = Σ_m g_m S^mᵀ q.

    The `active` memories with the largest probabilities p = softmax(R x_t) are picked, with g = p divided by the sum of
    those picked; a memory that is not picked does not decay. With `shared`, one more memory takes every step, with
    g = 1. Keys, values and gates have maps of their own for each memory, queries one. The short convolution, whose
    weights all memories share, sees only the steps that a memory takes. The sum is RMS-normed per head and gated with
    silu(G x). Training adds a load-balancing loss, see `layers.router`. Source: Du et al. 2025, "MoM: Linear Sequence
    Modeling with Mixture-of-Memories", and the code of flash-linear-attention.
    """

    about: ClassVar[About] = About(
        recurrence="S^m = α (I - β k kᵀ) S^m + β k vᵀ for the memories m that a router picks; y = Σ g_m S^mᵀ q",
        state="memories + 1 of heads x key_size x value_size, and conv - 1 inputs",
        op="delta_scan",
        source="Du et al. 2025, arXiv:2502.13685",
    )

    conv: int = 4
    """Steps of the short convolution (followed by silu) of q, k and v. 0: silu alone."""
    memories: int = 4
    """Memories that the router picks from."""
    active: int = 2
    """How many of them a token reads and writes."""
    shared: bool = True
    """Whether there is one more memory for all tokens."""
    balance: float = 0.02
    """Weight of the load-balancing loss, which without the weight is 1 at perfect balance."""

    def checks(self) -> list[tuple[bool, str]]:
        most = max(self.memories, 1)
        few = (0 < self.active <= most, f"active: expected 1 to {most} memories, got {self.active}")
        balance = (self.balance >= 0, f"balance: expected 0 or more, got {self.balance}")
        return [*super().checks(), *at_least(1, self, "memories"), few, balance]

    def make(self, width: int) -> "MoM":
        return MoM(width, self)


class MoM(KeyValueMixer):
    """The mixer of `MoMConfig`. State [B, memories · H, K, V], the shared memory last.

    Cost: that of all memories, for each goes over all steps, and its state stays as it is at those it does not take.
    """

    def __init__(self, width: int, config: MoMConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(MoMConfig, width, config, options)
        H, K, V = config.shape
        M = config.memories + config.shared
        self.config, self.width, self.memories, self.shape = config, width, M, (M * H, K, V)
        self.multiply_adds = 4
        self.router = Router(width, config.memories, config.active, balance=config.balance)
        self.read = projection(width, H * K, config.input_std)
        self.write = projection(width, M * H * (K + V), config.input_std)
        self.beta, self.forget = projection(width, M * H), projection(width, M * H)
        self.conv = ShortConv(H * (2 * K + V), config.conv) if config.conv else None
        self.forget_gate = LogForgetGate(H)
        self.gate = projection(width, H * V)
        self.norm = RMSNorm(V)
        self.output = projection(H * V, width)

    def forward(
        self, x: Tensor, state: KeyValueState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, KeyValueState]:
        x, reset = check_inputs("MoM", x, self.width, mask, reset)
        (_, K, _), M, H = self.shape, self.memories, self.config.heads
        conv, scan = (None, None) if state is None else state
        weights, taken = self._route(x)
        taken = zero_padding(taken, mask).mT.flatten(0, 1)  # from here on a memory is a row of the batch
        reset = None if reset is None else reset.repeat_interleave(M, dim=0)
        (q, k, v), conv = self._inputs(x, conv, taken, reset)
        by_memory = lambda z: z.unflatten(-1, (M, H)).transpose(1, 2).flatten(0, 1)  # noqa: E731
        beta = torch.sigmoid(by_memory(self.beta(x)).to(self.norm.weight.dtype))
        decay = self.forget_gate(by_memory(self.forget(x)))
        beta, decay = zero_padding(beta, taken), zero_padding(decay, taken)
        q, k = l2_normalise(q) / math.sqrt(K), l2_normalise(k)
        scan = None if scan is None else scan.unflatten(1, (M, H)).flatten(0, 1)
        y, scan = gated_delta_rule(q, k, v, beta, decay, state=scan, reset=reset)
        y = torch.einsum("bmthv,btm->bthv", y.unflatten(0, (-1, M)), weights.to(y.dtype))
        y = self.norm(y).flatten(2) * silu(self.gate(x))
        return self.output(y), KeyValueState(conv, scan.unflatten(0, (-1, M)).flatten(1, 2))

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """g [B, T, M], 0 for memories that a step does not take, and whether it takes them."""
        weights, picks = (a.unflatten(0, x.shape[:2]) for a in self.router.pick(x.flatten(0, 1)))
        none = weights.new_zeros(*x.shape[:2], self.config.memories)
        g, taken = none.scatter(-1, picks, weights), none.bool().scatter(-1, picks, True)
        if self.config.shared:
            g, taken = (torch.nn.functional.pad(a, (0, 1), value=1) for a in (g, taken))
        return g, taken

    def _inputs(
        self, x: Tensor, state: Tensor | None, taken: Tensor, reset: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """q, k and v [B·M, T, H, ...] of every memory and the state of the convolution [B, M, conv-1, channels]."""
        (_, K, V), M, H = self.shape, self.memories, self.config.heads
        q, kv = self.read(x), self.write(x).unflatten(-1, (M, -1))
        mixed = torch.cat([q[:, :, None].expand(-1, -1, M, -1), kv], dim=-1).transpose(1, 2).flatten(0, 1)
        if self.conv is None:
            mixed, last = silu(mixed), None
        else:
            # a document starts for all memories: where one does not take that step, its input there is zero
            mixed, steps = zero_padding(mixed, taken), taken if reset is None else taken | reset
            mixed, last = self.conv(mixed, None if state is None else state.flatten(0, 1), steps, reset)
            last = last.unflatten(0, (-1, M))
        pieces = mixed.split([H * K, H * K, H * V], dim=-1)
        return [piece.unflatten(-1, (H, -1)) for piece in pieces], last

    def init_state(self, batch: int) -> KeyValueState:
        conv = None if self.conv is None else self.conv.init_state(batch * self.memories).unflatten(0, (batch, -1))
        return KeyValueState(conv, self._zeros(batch))

    def mixing_flops(self, length: int) -> int:
        """The recurrences, the read-outs and the convolutions."""
        H, K, V = self.shape
        conv = 0 if self.conv is None else self.conv.weight.numel()
        return 2 * (self.multiply_adds * H * K * V + self.memories * conv)
