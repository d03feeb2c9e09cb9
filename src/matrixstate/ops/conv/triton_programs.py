"""The causal convolution as two Triton programs, forward and backward. Equations and names are those of README.md.

One program is some steps of one row of the batch, for a block of channels. Its steps are unrolled: every row of x is
loaded once, before anything is computed, and stays in registers for the K sums that read it. What is carried from one
step to the next is a tuple of K-1 vectors: of inputs forwards, of gradients of inputs backwards. A reset makes them
zeros, so that nothing crosses the start of a document. Steps are numbered as those of x: those of the state are
negative.
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# Python here is the language of Triton, whose numbers are tensors.
import triton
import triton.language as tl

from matrixstate.ops._triton import rounded


@triton.jit
def _inputs(
    x_ptr, state_ptr, b, first, channel, T, C: tl.constexpr, K: tl.constexpr, N: tl.constexpr, PAST: tl.constexpr
):
    """The inputs of N steps from `first`; of the state only among the first PAST. Zeros before it and after the end."""
    inputs = ()
    for i in tl.static_range(N):
        t = first + i
        now = channel < tl.where((t >= 0) & (t < T), C, 0)
        x = tl.load(x_ptr + (b * T + t) * C + channel, mask=now, other=0).to(tl.float32)
        if i < PAST:
            past = channel < tl.where((t < 0) & (t > -K), C, 0)
            x = tl.where(t < 0, tl.load(state_ptr + (b * (K - 1) + t + K - 1) * C + channel, mask=past, other=0), x)
        inputs += (x,)
    return inputs


@triton.jit
def _begins(reset_ptr, b, first, T, N: tl.constexpr):
    """Of N steps from `first` whether each begins a document."""
    begins = ()
    for i in tl.static_range(N):
        t = first + i
        begins += (tl.load(reset_ptr + b * T + t, mask=(t >= 0) & (t < T), other=0) != 0,)
    return begins


@triton.jit
def _windows(inputs, begins, RESETS: tl.constexpr, K: tl.constexpr, N: tl.constexpr):
    """Of N steps the K inputs that each reads, the latest first; zeros for those of an earlier document.

    The zeros are selected, so that they replace what is not finite too.
    """
    windows, window = (), ()
    for _ in tl.static_range(K - 1):
        window += (tl.zeros_like(inputs[0]),)
    for i in tl.static_range(N):
        read = (inputs[i],)
        for j in tl.static_range(K - 1):
            read += (tl.where(begins[i], 0.0, window[j]) if RESETS else window[j],)
        windows += (read,)
        window = read[: K - 1]
    return windows


@triton.jit
def _filter(weight_ptr, bias_ptr, channel, inside, K: tl.constexpr):
    """Of every lag j < K the weights that multiply x_{t-j}, and after these the bias."""
    taps = ()
    for j in tl.static_range(K):
        taps += (tl.load(weight_ptr + channel * K + K - 1 - j, mask=inside, other=0),)
    bias = tl.zeros_like(taps[0])
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + channel, mask=inside, other=0)
    return taps + (bias,)


@triton.jit(do_not_specialize=["T"])
def forward(
    x_ptr,  # [B, T, C]
    weight_ptr,  # [C, K]
    bias_ptr,  # [C], or None
    state_ptr,  # [B, K-1, C]
    reset_ptr,  # [B, T] int8, or None without RESETS
    y_ptr,  # [B, T, C]
    last_ptr,  # [B, K-1, C]
    T,
    C: tl.constexpr,
    K: tl.constexpr,
    STEPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    RESETS: tl.constexpr,
    SILU: tl.constexpr,
):
    block, blocks = tl.program_id(0).to(tl.int64), tl.cdiv(T, STEPS)  # 64 bits: offsets may exceed 2^31
    b, begin = block // blocks, block % blocks * STEPS
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < C
    taps = _filter(weight_ptr, bias_ptr, channel, inside, K)
    first = begin - (K - 1)
    inputs = _inputs(x_ptr, state_ptr, b, first, channel, T, C, K, STEPS + K - 1, K - 1)
    begins = ()
    if RESETS:
        begins = _begins(reset_ptr, b, first, T, STEPS + K - 1)
    windows = _windows(inputs, begins, RESETS, K, STEPS + K - 1)
    for i in tl.static_range(STEPS):
        t, u = begin + i, taps[K]
        for j in tl.static_range(K):
            u += taps[j] * windows[i + K - 1][j]
        y = rounded(u / (1 + tl.exp(-u)) if SILU else u, y_ptr.dtype.element_ty)
        tl.store(y_ptr + (b * T + t) * C + channel, y, mask=channel < tl.where(t < T, C, 0))

    if begin + STEPS >= T:  # the state after the last step
        last = _inputs(x_ptr, state_ptr, b, T - (K - 1), channel, T, C, K, K - 1, K - 1)
        flags = ()
        if RESETS:
            flags = _begins(reset_ptr, b, T - (K - 1), T, K - 1)
        if K > 1:
            last = _windows(last, flags, RESETS, K, K - 1)[K - 2]
        for j in tl.static_range(K - 1):
            tl.store(last_ptr + (b * (K - 1) + K - 2 - j) * C + channel, last[j], mask=inside)


@triton.jit(do_not_specialize=["T"])
def backward(
    x_ptr,
    weight_ptr,
    bias_ptr,
    state_ptr,
    reset_ptr,
    dy_ptr,  # [B, T, C]
    dlast_ptr,  # [B, K-1, C]
    dx_ptr,  # [B, T, C]
    dstate_ptr,  # [B, K-1, C]
    dfilter_ptr,  # [B, programs of a row, K+1, C]: what each program adds to the gradients of weight and bias
    T,
    C: tl.constexpr,
    K: tl.constexpr,
    STEPS: tl.constexpr,  # at least K-1
    CHANNELS: tl.constexpr,
    BLOCKS: tl.constexpr,  # of STEPS steps, per program
    RESETS: tl.constexpr,
    SILU: tl.constexpr,
):
    program, programs = tl.program_id(0).to(tl.int64), tl.cdiv(T + K - 1, BLOCKS * STEPS)
    b, channel = program // programs, tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < C
    taps = _filter(weight_ptr, bias_ptr, channel, inside, K)
    dfilter = ()  # of every lag, then of the bias
    for _ in tl.static_range(K + 1):
        dfilter += (tl.zeros_like(taps[0]),)
    earliest = program % programs * BLOCKS * STEPS - (K - 1)
    for block in range(tl.minimum(tl.cdiv(T - earliest, STEPS), BLOCKS)):
        begin = earliest + block * STEPS
        # dx of a step needs du of K-1 later ones, which need x of K-1 earlier ones.
        first = begin - (K - 1)
        inputs = _inputs(x_ptr, state_ptr, b, first, channel, T, C, K, STEPS + 2 * (K - 1), 2 * (K - 1))
        gradients = _inputs(dy_ptr, dy_ptr, b, begin, channel, T, C, K, STEPS + K - 1, 0)
        begins = ()
        if RESETS:
            begins = _begins(reset_ptr, b, first, T, STEPS + 2 * (K - 1))
        windows, sums = _windows(inputs, begins, RESETS, K, STEPS + 2 * (K - 1)), ()
        for i in tl.static_range(STEPS + K - 1):
            t, du, window, added = begin + i, gradients[i], windows[i + K - 1], ()
            if SILU:
                u = taps[K]
                for j in tl.static_range(K):
                    u += taps[j] * window[j]
                s = 1 / (1 + tl.exp(-u))
                du = tl.where((t >= 0) & (t < T), du * s * (1 + u * (1 - s)), 0.0)  # no NaN of an infinite u
            sums += (du,)
            if i < STEPS:
                for j in tl.static_range(K):
                    added += (dfilter[j] + du * window[j],)
                dfilter = added + (dfilter[K] + du,)

        pending = ()  # what is known of the gradients of the inputs t, t-1, ...
        for _ in tl.static_range(K - 1):
            pending += (tl.zeros_like(taps[0]),)
        for i in tl.static_range(STEPS + K - 2, -1, -1):
            t, du, added = begin + i, sums[i], ()
            # The last state is K-1 more outputs, each of which is the input K-1 steps before.
            of_last = channel < tl.where((t >= T) & (t < T + K - 1), C, 0)
            pending += (tl.load(dlast_ptr + (b * (K - 1) + t - T) * C + channel, mask=of_last, other=0),)
            for j in tl.static_range(K):
                added += (pending[j] + taps[j] * du,)
            if i < STEPS:
                dx, now = rounded(added[0], dx_ptr.dtype.element_ty), tl.where((t >= 0) & (t < T), C, 0)
                tl.store(dx_ptr + (b * T + t) * C + channel, dx, mask=channel < now)
            if i < K - 1:
                past = channel < tl.where(t < 0, C, 0)
                tl.store(dstate_ptr + (b * (K - 1) + t + K - 1) * C + channel, added[0], mask=past)
            pending = ()
            for j in tl.static_range(1, K):
                pending += (tl.where(begins[i + K - 1], 0.0, added[j]) if RESETS else added[j],)
    for j in tl.static_range(K + 1):
        tl.store(dfilter_ptr + (program * (K + 1) + j) * C + channel, dfilter[j], mask=inside)
