#include "common/rescale.h"
#include "matrix/chunk.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// The sizes of a window; compile-time constants where WHOLE, that is, states and x are [P][P] without padding.
template <int P, bool WHOLE>
struct Sizes {
    int64_t D, rows, padded_rows, stride, block;
    explicit Sizes(const Window& w)
        : D(WHOLE ? P : w.D),
          rows(WHOLE ? P : w.rows),
          padded_rows(WHOLE ? P : w.padded_rows),
          stride(P > 0 ? P : w.P),
          block(WHOLE ? P * P : w.block) {}
};

// Into the second-level cache: there are too many lines for the first.
template <int WRITE = 0>
INLINE void prefetch(const float* block, int64_t floats) {
    for (int64_t i = 0; i < floats; i += 64 / sizeof(float)) __builtin_prefetch(block + i, WRITE, 2);
}

template <int P, bool WHOLE>
void scan_forward_of(const ForwardChunk c, const Window& w) {  // by value, so that stores cannot alias it
    const Sizes<P, WHOLE> s(w);
    const int64_t heads = w.heads;
    for (int64_t i = 0; i < c.steps; ++i) {
        const bool reset = c.reset != nullptr && c.reset[i];
        for (int64_t n = 0; n < heads; ++n) {
            if (c.ahead > 0) prefetch(c.x.at(i + c.ahead, n), s.stride * s.stride);
            // h[t] = h[t-1] x[t] + v[t]
            const float* before = reset ? c.start : i > 0 ? c.h.at(i - 1, n) : c.state + n * s.block;
            const float* v = c.v.data == nullptr ? nullptr : c.v.at(i, n);
            product<P, false, WHOLE>({before, s.stride, c.x.at(i, n), v, c.h.at(i, n), s.padded_rows, s.D, s.stride});
            if (c.exponent != nullptr) {  // h = m 2^e: a power of two moves from m to e
                if (reset) c.exponent[n] = 0;
                c.exponents[i * w.H + n] = c.exponent[n] += rescale<P>(c.h.at(i, n), s.block);
            }
            if (c.sink != nullptr) c.sink->write(c.begin + i, n, c.h.at(i, n));
        }
    }
    for (int64_t n = 0; n < w.heads; ++n)
        std::memcpy(c.state + n * s.block, c.h.at(c.steps - 1, n), s.block * sizeof(float));
}

// g = (dh + carry) * power
template <int P>
INLINE void whole_gradient(const float* dh, const float* carry, float power, float* g, int64_t floats) {
    constexpr int W = width<P>();
    for (int64_t i = 0; i < floats; i += W)
        store_row<W>(g + i, (load_row<W>(dh + i) + load_row<W>(carry + i)) * power);
}

template <int P, bool WHOLE>
void scan_backward_of(const BackwardChunk c, const Window& w) {
    const Sizes<P, WHOLE> s(w);
    const int64_t heads = w.heads;
    for (int64_t i = c.steps - 1; i >= 0; --i)
        for (int64_t n = 0; n < heads; ++n) {
            if (c.ahead > 0) {  // the chunk before, in ascending order, which the hardware follows
                const int64_t there = c.steps - 1 - i - c.ahead;
                prefetch(c.x.at(there, n), s.stride * s.stride);
                prefetch(c.dh.at(there, n), s.block);
                prefetch(c.before.at(there + 1, n), s.block);
                if (c.dx.data != nullptr && c.dx_sink == nullptr) prefetch<1>(c.dx.at(there, n), s.stride * s.stride);
            }
            float *g = c.g.at(i, n), *carry = c.carry == nullptr ? nullptr : c.carry + n * s.block;
            const float power = c.power == nullptr ? 1.0f : c.power[i * heads + n];
            // B_t = power (G_t + carry); dx[t] = (the state before)ᵀ B_t; carry = B_t x[t]ᵀ, or zero at a reset
            if (carry != nullptr) whole_gradient<P>(c.dh.at(i, n), carry, power, g, s.block);
            if (c.g_sink != nullptr) c.g_sink->write(c.begin + i, n, g);
            if (c.dx.data != nullptr) {
                const bool first = i == 0 && c.first != nullptr;
                const float* before = c.is_reset(i) ? c.start : first ? c.first + n * s.block : c.before.at(i, n);
                product<P, true, WHOLE>(
                    {before, s.stride, g, nullptr, c.dx.at(i, n), round_up(s.D, 4), s.rows, s.stride});
            }
            if (c.dx_sink != nullptr) c.dx_sink->write(c.begin + i, n, c.dx.at(i, n));
            if (carry == nullptr) continue;
            if (c.is_reset(i)) {
                std::memset(carry, 0, s.block * sizeof(float));
                continue;
            }
            // A transposed copy costs D² moves, and lets the product of D³ multiply-adds read rows as vectors.
            transpose<P>(c.x.at(i, n), c.transposed, s.stride);
            product<P, false, WHOLE>({g, s.stride, c.transposed, nullptr, carry, s.padded_rows, s.D, s.stride});
        }
}

// Calls work(order, whole) with compile-time constants: the padded order, and whether matrices fill their blocks.
template <class Work>
void dispatch_sizes(const Window& w, const Work& work) {
    dispatch_order(w.P, [&](auto order) {
        if (w.D == w.P && w.rows == w.P) work(order, std::bool_constant<(order.value > 0)>());
        else work(order, std::false_type());
    });
}

}  // namespace

Source::Source(Input array, const Window& window, Arena& arena)
    : array_(array),
      window_(window),
      scratch_(arena.take(array.data == nullptr || in_place() ? 0 : window.chunk)) {}

ConstBlocks Source::open(int64_t begin, int64_t steps) const {
    const Window& w = window_;
    if (in_place()) return {static_cast<const float*>(array_.data) + w.at(begin, 0), w.H * w.R * w.D, w.R * w.D};
    const Blocks blocks{scratch_, w.heads * w.block, w.block};
    for (int64_t i = 0; i < steps; ++i)
        for (int64_t n = 0; n < w.heads; ++n)
            read_block(array_, w.at(begin + i, n), w.rows, w.D, blocks.at(i, n), w.P);
    return {scratch_, blocks.step, blocks.head};
}

Sink::Sink(Output array, const Window& window, const MatrixSplit& split, int64_t large)
    : array_(array),
      window_(window),
      nontemporal_(window.in_place(array.dtype) && reinterpret_cast<uintptr_t>(array.data) % 64 == 0 &&
               4 * split.sizes.B * window.T * window.H * window.R * window.D >= large),
      in_place_(window.in_place(array.dtype) && !nontemporal_) {}

Blocks Sink::open(int64_t begin, Blocks scratch) const {
    const Window& w = window_;
    if (!in_place_) return scratch;
    return {static_cast<float*>(array_.data) + w.at(begin, 0), w.H * w.R * w.D, w.R * w.D};
}

void Sink::write(int64_t t, int64_t n, const float* block) const {
    const Window& w = window_;
    if (nontemporal_) store_block_nontemporal(block, w.block, static_cast<float*>(array_.data) + w.at(t, n));
    else if (!in_place_) write_block(array_, w.at(t, n), w.rows, w.D, block, w.P);
}

void read_states(const float* states, const Window& w, float* blocks) {
    std::memset(blocks, 0, w.heads * w.block * sizeof(float));
    for (int64_t n = 0; n < w.heads; ++n)
        read_block({states, Dtype::float32}, w.at(n), w.rows, w.D, blocks + n * w.block, w.P);
}

void write_states(const float* blocks, const Window& w, float* states) {
    for (int64_t n = 0; n < w.heads; ++n)
        write_block({states, Dtype::float32}, w.at(n), w.rows, w.D, blocks + n * w.block, w.P);
}

void fill_start(float* start, const Window& w, bool identity) {
    std::memset(start, 0, w.block * sizeof(float));
    for (int64_t r = 0; identity && r < w.rows && w.row + r < w.D; ++r) start[r * w.P + w.row + r] = 1;
}

void scan_forward(const ForwardChunk& chunk, const Window& window) {
    dispatch_sizes(window, [&](auto order, auto whole) { scan_forward_of<order.value, whole.value>(chunk, window); });
}

void scan_backward(const BackwardChunk& chunk, const Window& window) {
    dispatch_sizes(window, [&](auto order, auto whole) { scan_backward_of<order.value, whole.value>(chunk, window); });
}

}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
