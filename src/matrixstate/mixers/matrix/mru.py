"""MRU, the matrix recurrent unit: every token becomes a square matrix per head, and the state is their product."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from matrixstate.errors import require
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
from matrixstate.mixers.matrix.correction import Codebook, correction_checks
from matrixstate.mixers.matrix.value_path import ValuePath, value_path_checks
from matrixstate.ops import MRUWeights, ScaledState, SnapState, accumulation_dtype, mru_scan, mru_step
from matrixstate.ops.matrix import METHODS


@dataclass(frozen=True)
class MRUConfig(MixerConfig):
    """H_t = f_t H_{t-1} X_t + V_t per head, read out as H_t W_down. Source: M. Levi, mru-lm.

    The defaults are the source's model with one change: `rescale`, without which training diverges at ordinary
    learning rates.
    """

    about: ClassVar[About] = About(
        recurrence="H = f H X + V; y = H W_down; X a D x D matrix made of the token",
        state="heads x D x D = state_size",
        op="mru_scan",
        source="M. Levi, mru-lm",
        forms=("parallel", "chunked", "step"),
    )

    heads: int = 4
    """Number of heads H."""
    state_size: int | None = None
    """Entries of the state over all heads, H · D²: each head's share must be a perfect square. Default: the width."""
    builder: str = "ldu"
    """The map from a token's elements to the matrix X_t: a name of `state_matrix.BUILDERS`."""
    method: str = "auto"
    """The order of the products in the scan: a name of `ops.matrix.METHODS`."""
    rescale: bool = True
    """Carry H as a matrix and a power of two, which cannot overflow. Changes no output where the read-out is
    normalised."""
    readout: Literal["state", "normalised", "bounded"] = "normalised"
    """What W_down is applied to: "state" H, "normalised" N = H sqrt(D)/|H|, or "bounded" N exp(c tanh(s/c)) with
    s = log(|H|/sqrt(D)), which is H where s is small and lies within a factor e^c of N everywhere."""
    bound: float = 2.0
    """c of the bounded read-out."""
    channels: int | None = None
    """Channels after W_down, a multiple of heads · D. Default: the width."""
    down_std: float | None = None
    """Standard deviation of W_down at initialisation. Default: 0.02 sqrt(D)."""
    conv: int = 0
    """Steps of a short convolution (followed by silu) of the input from which X_t is made. 0: no convolution."""
    decay: bool = False
    """Use a forget gate f_t per head, that of M²RNN."""
    write: bool = False
    """Add V_t, a projection of the input followed by a short convolution. Needs `rescale: false`."""
    write_conv: int = 4
    """Steps of the short convolution (followed by silu) of the value path."""
    skip: bool = False
    """Add the values times a learned factor per channel to the read-out. Needs `write`, and channels = state_size."""
    gate: bool = False
    """Multiply the read-out by silu of a projection of the input."""
    norm: bool = False
    """Apply RMSNorm over all channels of the read-out, after the gate."""
    snap: int = 0
    """Steps between two corrections of the state by a learned codebook, which stop errors from accumulating. 0: no
    correction. Needs `rescale`, a normalised read-out, and neither `write` nor `decay`."""
    codes: int = 16
    """Entries of each codebook: at least as many as there are states to tell apart."""
    code_groups: int = 1
    """Groups of heads with a codebook each; the heads of a group are corrected together. A divisor of heads."""
    sharpness: float = 16.0
    """Inverse temperature of the softmax over the codes at initialisation; its logits are cosines."""
    balanced: bool = False
    """Write sqrt(1 - f_t²) V_t, so that the size of a head's state does not depend on how slowly it forgets. Needs
    `decay` and `write`. Source: Griffin's RG-LRU, De et al. 2024."""
    input_std: float = 0.02
    """Standard deviation of the weights of the value projection and the gate at initialisation."""

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
            *value_path_checks(self),
            *correction_checks(self),
            *positive(self, "input_std"),
        )
        if self.state_size is not None:
            self.order(self.state_size)

    @property
    def correctable(self) -> bool:
        """Whether `snap` may be set. Without `decay`; `rescale` excludes `write`."""
        return self.rescale and self.readout == "normalised" and self.method == "auto" and not self.decay

    def order(self, width: int) -> int:
        """D, the order of each head's state. Raises ConfigError unless D² = state_size / heads for a whole D."""
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
    """What an MRU carries from one call to the next. None where the option is off."""

    conv: Tensor | None  # [B, conv-1, width]
    write: Tensor | None  # [B, write_conv-1, state_size]
    scan: Any  # [B, H, D, D]: a tensor, `ScaledState` (rescale) or `SnapState` (snap); None before the first step


class MRU(Mixer):
    """The mixer of `MRUConfig`. At initialisation every X_t is the identity (minus the identity for `householder`).

    The value path and error correction are parts in modules of their own: `value_path` and `correction`.
    """

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
                heads,
                order,
                every=config.snap,
                codes=config.codes,
                groups=config.code_groups,
                sharpness=config.sharpness,
            )
        self.forget, self.forget_gate, self.value, self.value_conv = ValuePath.make(width, size, config)
        self.skip = nn.Parameter(torch.ones(size)) if config.skip else None
        # entries of the identity have mean square 1/D; GPT-2's 0.02 is for inputs of mean square 1
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
        written, write_state = self._value_path.write(
            x,
            state.write,
            mask,
            reset,
            shape=(config.heads, self.order, self.order),
            dtype=elements.dtype,
            balanced=config.balanced,
        )
        if self.codebook is not None:
            matrices = build_state_matrix(config.builder, elements, self.order)
            h, scan_state = self.codebook(matrices, state.scan, mask, reset)
            y = torch.einsum("bthij,hjc->bthic", h, self.down.to(h.dtype))
        else:
            y, scan_state = mru_scan(
                elements,
                self.down,
                written.added,
                state.scan,
                builder=config.builder,
                decay=written.decay,
                rescale=config.rescale,
                readout=config.readout,
                bound=config.bound,
                mask=mask,
                reset=reset,
                method=config.method,
            )
        return self._finish(x, y, written.value), MRUState(conv_state, write_state, scan_state)

    @property
    def _value_path(self) -> ValuePath:
        return ValuePath(self.forget, self.forget_gate, self.value, self.value_conv)

    def _finish(self, x: Tensor, y: Tensor, value: Tensor | None) -> Tensor:
        """Skip, gate, norm and output projection of the read-out y [B, T, H, D, channels of a row]: [B, T, width]."""
        y = y.to(x.dtype).flatten(2)
        if self.skip is not None and value is not None:
            y = y + self.skip * value
        if self.gate is not None:
            y = y * nn.functional.silu(self.gate(x))
        if self.norm is not None:
            y = self.norm(y)
        return self.output(y)

    def _step(self, x: Tensor, state: MRUState | None) -> tuple[Tensor, MRUState]:
        """`forward` of one token per row by a fused op, without gradients."""
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
        return MRUState(
            None if self.conv is None else self.conv.init_state(batch),
            None if self.value_conv is None else self.value_conv.init_state(batch),
            self._init_scan(batch) if self.codebook is None else self.codebook.init_state(batch),
        )

    def _init_scan(self, batch: int) -> Tensor | ScaledState:
        """H_0: zeros where V_t is added, else the identity, for a product that starts at zero stays there."""
        dtype, device = accumulation_dtype(self.down.dtype), self.down.device
        shape = (batch, self.config.heads, self.order, self.order)
        if self.value is not None:
            matrix = torch.zeros(shape, dtype=dtype, device=device)
        else:
            matrix = torch.eye(self.order, dtype=dtype, device=device).expand(shape)
        if not self.config.rescale:
            return matrix
        return ScaledState(matrix, torch.zeros(shape[:2], dtype=torch.int32, device=device))

    def state_matrices(self, state: MRUState) -> StateMatrices | None:
        if isinstance(state.scan, SnapState):
            return StateMatrices(state.scan.matrix)
        if isinstance(state.scan, ScaledState):
            return StateMatrices(state.scan.matrix, state.scan.exponent * math.log(2), product=True)
        return None if state.scan is None else StateMatrices(state.scan, product=self.value is None)

    def mixing_flops(self, length: int) -> int:
        """The scan, the read-out and the convolutions; making X_t is not counted."""
        scan = 2 * self.config.heads * self.order**3
        filters = sum(conv.weight.numel() for conv in (self.conv, self.value_conv) if conv is not None)
        return scan + 2 * self.order * self.down.numel() + 2 * filters
