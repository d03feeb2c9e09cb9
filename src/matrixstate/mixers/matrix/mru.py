"""MRU, the matrix recurrent unit: every token becomes a square matrix per head, and the matrices are multiplied up."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.codebook import Codebook
from matrixstate.layers.forget_gate import ForgetGate
from matrixstate.layers.mixer import (
    About,
    Mixer,
    MixerConfig,
    StateMatrices,
    check_inputs,
    is_one_step,
    make_config,
    positive,
    require_width,
)
from matrixstate.layers.norm import EPS, RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.layers.short_conv import ShortConv
from matrixstate.layers.state_matrix import BUILDERS, build_state_matrix
from matrixstate.ops import (
    MRUWeights,
    ScaledState,
    SnapState,
    accumulation_dtype,
    mru_scan,
    mru_step,
    snap_scan,
    write_share,
)
from matrixstate.ops.matrix import METHODS


@dataclass(frozen=True)
class MRUConfig(MixerConfig):
    """H_t = f_t H_{t-1} X_t + V_t per head, read out as H_t W_down. Source: M. Levi, mru-lm.

    The defaults are the source's form but for the rescaling, without which training diverges at ordinary rates.
    """

    about: ClassVar[About] = About(
        recurrence="H = f H X + V; y = H W_down; X a D x D matrix made of the token",
        state="heads x D x D = state_size",
        op="mru_scan",
        source="M. Levi, mru-lm",
        forms=("parallel", "chunked", "step"),
    )

    heads: int = 4
    """Number of heads."""
    state_size: int | None = None
    """Entries of the state over all heads; each head's share must be a perfect square D². Default: the width."""
    builder: str = "ldu"
    """How a token's elements become X_t: a name of `state_matrix.BUILDERS`."""
    method: str = "auto"
    """The order of the products in the scan: a name of `ops.matrix.METHODS`."""
    rescale: bool = True
    """Carry H as a matrix and a power of two, which never overflows. The same function for a scale-free read-out."""
    readout: Literal["state", "normalised", "bounded"] = "normalised"
    """What is read: H, H sqrt(D)/|H|, or the latter times exp(c tanh(log|H|/c)), which lies within e^c of it."""
    bound: float = 2.0
    """c of the bounded read-out."""
    channels: int | None = None
    """Channels after W_down, a multiple of heads · D. Default: the width."""
    down_std: float | None = None
    """Standard deviation of W_down at the start. Default: 0.02 sqrt(D), as GPT-2's projections read the identity."""
    conv: int = 0
    """Steps of a short convolution (with silu) before X_t is made. 0: none."""
    decay: bool = False
    """A forget gate f_t per head, as in M²RNN."""
    write: bool = False
    """An additive V_t from a projected and convolved value path. Needs rescale: false."""
    write_conv: int = 4
    """Steps of the short convolution (with silu) on the value path."""
    skip: bool = False
    """Add a learned multiple of the value path to the read-out. Needs write, and channels equal to state_size."""
    gate: bool = False
    """Multiply the read-out by silu of a projection of the input."""
    norm: bool = False
    """RMSNorm of the read-out (after the gate) over all channels."""
    snap: int = 0
    """Correct the state every so many steps by a learned codebook, which keeps errors from adding up. 0: never. Needs
    rescale, a normalised read-out, and neither write nor decay."""
    codes: int = 16
    """Entries of each codebook: at least as many as there are states to be told apart."""
    code_groups: int = 1
    """Groups of heads with a codebook each; the heads of a group are corrected together. A divisor of heads."""
    sharpness: float = 16.0
    """How surely the nearest code is taken, at the start: the inverse temperature of cosines between -1 and 1."""
    balanced: bool = False
    """Write sqrt(1 - f_t²) V_t, so that heads that forget slowly hold states no larger than those of the others. Needs
    decay and write. Source: Griffin's RG-LRU, De et al. 2024."""
    input_std: float = 0.02
    """Standard deviation of the weights of the value path and the gate at the start."""

    def __post_init__(self) -> None:
        require(
            (self.heads > 0, f"heads: expected at least 1, got {self.heads}"),
            (self.builder in BUILDERS, f"builder: expected one of {', '.join(BUILDERS)}, got {self.builder!r}"),
            (self.method in METHODS, f"method: expected one of {', '.join(METHODS)}, got {self.method!r}"),
            *positive(self, "bound"),
            (
                self.down_std is None or self.down_std > 0,
                f"down_std: expected a positive number, got {self.down_std}",
            ),
            (self.conv >= 0, f"conv: expected 0 or more steps, got {self.conv}"),
            (self.write_conv > 0, f"write_conv: expected at least 1 step, got {self.write_conv}"),
            (not (self.write and self.rescale), "rescale: expected false where write is true, got true"),
            (self.write or not self.skip, "skip: expected false where write is false, got true"),
            (
                (self.write and self.decay) or not self.balanced,
                "balanced: expected false without write and decay, got true",
            ),
            (self.snap >= 0, f"snap: expected 0 or more steps, got {self.snap}"),
            (
                not self.snap or self.correctable,
                "snap: expected 0 unless rescale is true, readout normalised, method auto, decay and write false, "
                f"got {self.snap}",
            ),
            (self.codes > 0, f"codes: expected at least 1, got {self.codes}"),
            (
                self.heads <= 0 or (self.code_groups > 0 and self.heads % self.code_groups == 0),
                f"code_groups: expected a divisor of {self.heads}, got {self.code_groups}",
            ),
            *positive(self, "sharpness", "input_std"),
        )
        if self.state_size is not None:
            self.order(self.state_size)

    @property
    def correctable(self) -> bool:
        """Whether it may have `snap`."""
        return self.rescale and self.readout == "normalised" and self.method == "auto" and not self.decay

    def order(self, width: int) -> int:
        """D, the order of each head's state. Raises ConfigError if a head's share is no perfect square."""
        size = self.state_size or width
        order = math.isqrt(max(size, 0) // self.heads)
        require(
            (
                size > 0 and order * order * self.heads == size,
                f"state_size: expected heads times a perfect square, got {size} for {self.heads} heads",
            )
        )
        return order

    def fitted(self, width: int) -> Self:
        """With a smaller state where the width is not heads · D²: D the greatest divisor of width/heads that fits."""
        share = width // self.heads  # channels of a head
        orders = [d for d in range(2, math.isqrt(share) + 1) if share % d == 0]
        if self.state_size is not None or math.isqrt(share) ** 2 == share or width % self.heads or not orders:
            return self
        return dataclasses.replace(self, state_size=self.heads * max(orders) ** 2)

    def make(self, width: int) -> "MRU":
        return MRU(width, self)


class MRUState(NamedTuple):
    conv: Tensor | None  # [B, conv-1, width]
    write: Tensor | None  # [B, write_conv-1, state_size]
    scan: Any  # [B, heads, D, D]: a tensor, `ScaledState` or `SnapState`; None before the first step


class MRU(Mixer):
    """The mixer of `MRUConfig`. At the start every X_t is the identity (minus it for `householder`)."""

    def __init__(self, width: int, config: MRUConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(MRUConfig, width, config, options)
        self.config, self.width, self.order = config, width, config.order(width)
        heads, order = config.heads, self.order
        size, channels = heads * order * order, config.channels or width
        require_width("mru", channels, heads * order, "heads · D (or set channels)")
        require((not config.skip or channels == size, f"channels: expected {size} for skip, got {channels}"))
        self.conv = ShortConv(width, config.conv) if config.conv else None
        self.up = projection(width, heads * BUILDERS[config.builder].elements(order), std=0)
        self.codebook = None
        if config.snap:
            self.codebook = Codebook(
                config.code_groups, config.codes, heads // config.code_groups, order, config.sharpness
            )
        self.forget = projection(width, heads) if config.decay else None
        self.forget_gate = ForgetGate(heads) if config.decay else None
        self.value = projection(width, size, config.input_std) if config.write else None
        self.value_conv = ShortConv(size, config.write_conv) if config.write else None
        self.skip = nn.Parameter(torch.ones(size)) if config.skip else None
        # the identity has variance 1/D, so this reads it as GPT-2's projections read inputs of variance 1
        std = config.down_std or 0.02 * math.sqrt(order)
        self.down = nn.Parameter(torch.randn(heads, order, channels // (heads * order)) * std)
        self.gate = projection(width, channels, config.input_std) if config.gate else None
        self.norm = RMSNorm(channels) if config.norm else None
        self.output = projection(channels, width)

    def forward(
        self, x: Tensor, state: MRUState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, MRUState]:
        config = self.config
        x, reset = check_inputs("MRU", x, self.width, mask, reset)
        if self.codebook is None and is_one_step(self, x, mask, reset):
            return self._step(x, state)
        state = MRUState(None, None, None) if state is None else state
        u, conv_state = (x, None) if self.conv is None else self.conv(x, state.conv, mask, reset)
        elements = self.up(u).unflatten(-1, (config.heads, -1))
        value = added = write_state = decay = None
        if self.value is not None and self.value_conv is not None:
            value, write_state = self.value_conv(self.value(x), state.write, mask, reset)
            added = value.to(elements.dtype).unflatten(-1, (config.heads, self.order, self.order))
        if self.forget is not None and self.forget_gate is not None:
            forget = self.forget(x)
            decay = self.forget_gate(forget)
            if config.balanced and added is not None:
                share = write_share(self.forget_gate.log_decay(forget))
                added = (added * share[..., None, None]).to(elements.dtype)
        if self.codebook is not None:
            y, scan_state = self._corrected(elements, state.scan, mask, reset)
            return self._finish(x, y, value), MRUState(conv_state, write_state, scan_state)
        y, scan_state = mru_scan(
            elements,
            self.down,
            added,
            state.scan,
            builder=config.builder,
            decay=decay,
            rescale=config.rescale,
            readout=config.readout,
            bound=config.bound,
            mask=mask,
            reset=reset,
            method=config.method,
        )
        return self._finish(x, y, value), MRUState(conv_state, write_state, scan_state)

    def _corrected(
        self, elements: Tensor, state: Any, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, SnapState]:
        """The scan that snaps to the codebook, and its read-out [B, T, heads, D, channels of a row]."""
        assert self.codebook is not None
        matrices = build_state_matrix(self.config.builder, elements, self.order)
        keys, values = self.codebook()
        h, state = snap_scan(matrices, keys, values, state, every=self.config.snap, mask=mask, reset=reset)
        return torch.einsum("bthij,hjc->bthic", h, self.down.to(h.dtype)), state

    def _finish(self, x: Tensor, y: Tensor, value: Tensor | None) -> Tensor:
        """What follows the read-out y [B, T, heads, D, ...]: [B, T, width]."""
        y = y.to(x.dtype).flatten(2)
        if self.skip is not None and value is not None:
            y = y + self.skip * value
        if self.gate is not None:
            y = y * nn.functional.silu(self.gate(x))
        if self.norm is not None:
            y = self.norm(y)
        return self.output(y)

    def _step(self, x: Tensor, state: MRUState | None) -> tuple[Tensor, MRUState]:
        """As `forward`, for one token."""
        state = self.init_state(len(x)) if state is None or state.scan is None else state
        assert state.scan is not None
        u, conv = (x, None) if self.conv is None else self.conv(x, state.conv, None, None)
        elements = self.up(u).unflatten(-1, (self.config.heads, -1))
        value, forget, gate = (None if linear is None else linear(x) for linear in (self.value, self.forget, self.gate))
        y, write, scan = mru_step(elements, value, forget, gate, self._weights(), state.write, state.scan)
        return self.output(y), MRUState(conv, write, scan)

    def _weights(self) -> MRUWeights:
        config, conv, gate, norm = self.config, self.value_conv, self.forget_gate, self.norm
        return MRUWeights(
            builder=config.builder,
            rescale=config.rescale,
            readout=config.readout,
            bound=config.bound,
            down=self.down,
            conv=None if conv is None else conv.weight,
            log_rate=None if gate is None else gate.A_log,
            bias=None if gate is None else gate.dt_bias,
            skip=self.skip,
            norm=None if norm is None else norm.weight,
            eps=EPS,
            balanced=config.balanced,
        )

    def init_state(self, batch: int) -> MRUState:
        like, order, dtype = self.down, self.order, accumulation_dtype(self.down.dtype)
        if self.value is not None:
            matrix = like.new_zeros(batch, self.config.heads, order, order, dtype=dtype)
        else:
            identity = torch.eye(order, dtype=dtype, device=like.device)
            matrix = identity.expand(batch, self.config.heads, order, order)
        exponent = torch.zeros(batch, self.config.heads, dtype=torch.int32, device=like.device)
        return MRUState(
            None if self.conv is None else self.conv.init_state(batch),
            None if self.value_conv is None else self.value_conv.init_state(batch),
            SnapState(matrix, exponent[:, 0])
            if self.config.snap
            else ScaledState(matrix, exponent)
            if self.config.rescale
            else matrix,
        )

    def state_matrices(self, state: MRUState) -> StateMatrices | None:
        if isinstance(state.scan, SnapState):
            return StateMatrices(state.scan.matrix)
        if isinstance(state.scan, ScaledState):
            return StateMatrices(state.scan.matrix, state.scan.exponent * math.log(2), product=True)
        return None if state.scan is None else StateMatrices(state.scan, product=self.value is None)

    def mixing_flops(self, length: int) -> int:
        """The scan, the read-out and the convolutions; building X_t is not counted."""
        scan = 2 * self.config.heads * self.order**3
        filters = sum(conv.weight.numel() for conv in (self.conv, self.value_conv) if conv is not None)
        return scan + 2 * self.order * self.down.numel() + 2 * filters
