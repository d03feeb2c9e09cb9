"""One token through an M²RNN layer as a Triton program, but for the norm, which is over all heads (see step.py).

A program is one head of one row. Heads that share q, k or v each compute the convolution of it again, which is a few
numbers; the first of them writes its last inputs.
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# Python here is the language of Triton, whose numbers are tensors.
import triton
import triton.language as tl

from matrixstate.ops._triton import dot, tanh


@triton.jit
def _mix(x_ptr, past_ptr, conv_ptr, after_ptr, channel, inside, first, C: tl.constexpr, TAPS: tl.constexpr):
    """The channels of q, k or v after convolution and silu; `first` writes the convolution's last inputs."""
    x = tl.load(x_ptr + channel, mask=inside, other=0).to(tl.float32)
    if TAPS > 0:
        mixed = x * tl.load(conv_ptr + channel * TAPS + TAPS - 1, mask=inside, other=0).to(tl.float32)
        for j in tl.static_range(TAPS - 1):
            past = tl.load(past_ptr + j * C + channel, mask=inside, other=0)
            mixed += past * tl.load(conv_ptr + channel * TAPS + j, mask=inside, other=0).to(tl.float32)
        if first:  # the last inputs move on by one
            for j in tl.static_range(TAPS - 2):
                past = tl.load(past_ptr + (j + 1) * C + channel, mask=inside, other=0)
                tl.store(after_ptr + j * C + channel, past, mask=inside)
            if TAPS > 1:
                tl.store(after_ptr + (TAPS - 2) * C + channel, x, mask=inside)
        x = mixed * tl.sigmoid(mixed)
    return x


@triton.jit
def _unit(x):
    """x of length 1, with the floor of torch.nn.functional.normalize."""
    return x / tl.maximum(tl.sqrt(tl.sum(x * x, 0)), 1e-12)


@triton.jit
def step(
    x_ptr,  # [B, C + HF + HG V]
    past_ptr,  # [B, TAPS-1, C] float32
    state_ptr,  # [B, H, K, V] float32
    conv_ptr,  # [C, TAPS]
    rate_ptr,  # [HF]
    bias_ptr,  # [HF]
    w_ptr,  # [HW, V, V]
    residual_ptr,  # [H, V]
    y_ptr,  # [B, H, V] float32: before the norm
    after_ptr,  # [B, TAPS-1, C] float32
    last_ptr,  # [B, H, K, V] float32
    H: tl.constexpr,
    HQ: tl.constexpr,
    HK: tl.constexpr,
    HV: tl.constexpr,
    HF: tl.constexpr,
    HG: tl.constexpr,
    HW: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TAPS: tl.constexpr,  # 0 for no convolution
    UNIT: tl.constexpr,
    RESIDUAL: tl.constexpr,
    HALF: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64)
    b, n = head // H, head % H
    C: tl.constexpr = (HQ + HK) * K + HV * V
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    x_ptr += b * (C + HF + HG * V)
    past_ptr += b * (TAPS - 1) * C
    after_ptr += b * (TAPS - 1) * C
    own_q, own_k, own_v = n // (H // HQ), n // (H // HK), n // (H // HV)
    q_at, k_at, v_at = own_q * K + row, HQ * K + own_k * K + row, (HQ + HK) * K + own_v * V + column
    q = _mix(x_ptr, past_ptr, conv_ptr, after_ptr, q_at, row < K, n % (H // HQ) == 0, C, TAPS)
    k = _mix(x_ptr, past_ptr, conv_ptr, after_ptr, k_at, row < K, n % (H // HK) == 0, C, TAPS)
    v = _mix(x_ptr, past_ptr, conv_ptr, after_ptr, v_at, column < V, n % (H // HV) == 0, C, TAPS)
    if UNIT:
        q, k = _unit(q), _unit(k)

    own_f = n // (H // HF)
    z = tl.load(x_ptr + C + own_f).to(tl.float32) + tl.load(bias_ptr + own_f).to(tl.float32)
    softplus = tl.maximum(z, 0) + tl.log(1 + tl.exp(-tl.abs(z)))
    f = tl.exp(-tl.exp(tl.load(rate_ptr + own_f).to(tl.float32)) * softplus)

    tile = head * K * V + row[:, None] * V + column[None, :]
    inside = (row[:, None] < K) & (column[None, :] < V)
    square = (column[:, None] < V) & (column[None, :] < V)
    w = w_ptr + n // (H // HW) * V * V + column[:, None] * V + column[None, :]
    w = tl.load(w, mask=square, other=0).to(tl.float32)
    h = tl.load(state_ptr + tile, mask=inside, other=0)
    h = f * h + (1 - f) * tanh(dot(h, w, HALF, PRECISION) + k[:, None] * v[None, :], FAST)
    tl.store(last_ptr + tile, h, mask=inside)
    y = tl.sum(q[:, None] * h, 0)
    if RESIDUAL:
        y += tl.load(residual_ptr + n * V + column, mask=column < V, other=0).to(tl.float32) * v
    gate = tl.load(x_ptr + C + HF + n // (H // HG) * V + column, mask=column < V, other=0).to(tl.float32)
    tl.store(y_ptr + head * V + column, y * gate * tl.sigmoid(gate), mask=column < V)
