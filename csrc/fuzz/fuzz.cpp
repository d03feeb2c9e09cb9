// Runs every kernel of every instruction set on random shapes. Made to be compiled with the sanitizers, which see what
// is read or written out of bounds; every array has exactly its size, and outputs are checked to be written in full.
// Usage: fuzz [seconds] [seed]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "draw.h"
#include "fuzz_cells.h"
#include "fuzz_snap.h"
#include "fuzz_steps.h"

static bool run_m2rnn(const Kernels& kernels) {
    Arrays arrays;
    const int64_t H = pick(1, 6), K = pick(0, 1) ? pick(0, 9) : pick(10, 70), V = pick(0, 1) ? pick(0, 9) : pick(10, 70);
    const int64_t B = pick(0, 3), T = pick(0, 1) ? pick(0, 4) : pick(5, 40);
    const M2rnnSizes s{B, T, H, K, V, divisor_of(H), divisor_of(H), divisor_of(H), H, divisor_of(H)};
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    M2rnnForward forward{};
    forward.sizes = s;
    forward.q = arrays.input(B * T * s.Hq * K, dtype).in();
    forward.k = arrays.input(B * T * s.Hk * K, dtype).in();
    forward.v = arrays.input(B * T * s.Hv * V, dtype).in();
    forward.w = arrays.input(s.Hw * V * V, Dtype::float32, -0.3f, 0.3f).floats();
    forward.f = arrays.input(B * T * s.Hf, Dtype::float32, 0, 1).floats();
    forward.reset = arrays.flags(B * T);
    forward.threads = static_cast<int>(pick(1, 3));
    forward.state = arrays.input(B * H * K * V).floats();
    forward.y = arrays.output(B * T * H * V, dtype).out();
    forward.last = arrays.output(B * H * K * V).floats();
    float* kept = arrays.output(B * H * s.intervals() * V * K).floats();
    forward.kept = kept;
    kernels.m2rnn_forward(forward);

    M2rnnBackward backward{};
    static_cast<M2rnnInputs&>(backward) = forward;
    backward.kept = kept;
    backward.dy = arrays.input(B * T * H * V, dtype).in();
    backward.dlast = arrays.input(B * H * K * V).floats();
    backward.clip = pick(0, 1) ? 0.1f : 0.0f;
    backward.dq = arrays.output(B * T * s.Hq * K, dtype).out();
    backward.dk = arrays.output(B * T * s.Hk * K, dtype).out();
    backward.dv = arrays.output(B * T * s.Hv * V, dtype).out();
    backward.dw = arrays.output(s.Hw * V * V).floats();
    backward.df = arrays.output(B * T * s.Hf).floats();
    backward.dstate = arrays.output(B * H * K * V).floats();
    kernels.m2rnn_backward(backward);
    return arrays.all_written();
}

static bool run_conv(const Kernels& kernels) {
    Arrays arrays;
    const int64_t B = pick(0, 3), T = pick(1, 300), C = pick(0, 40), K = pick(0, 3) ? pick(1, 5) : pick(6, 40);
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    const bool with_bias = pick(0, 1);
    ConvForward forward{};
    forward.B = B, forward.T = T, forward.C = C, forward.K = K;
    forward.x = arrays.input(B * T * C, dtype).in();
    forward.weight = arrays.input(C * K).floats();
    forward.bias = with_bias ? arrays.input(C).floats() : nullptr;
    forward.state = arrays.input(B * (K - 1) * C).floats();
    forward.reset = arrays.flags(B * T);
    forward.silu = pick(0, 1);
    forward.threads = static_cast<int>(pick(1, 3));
    forward.y = arrays.output(B * T * C, dtype).out();
    forward.last = arrays.output(B * (K - 1) * C).floats();
    kernels.conv_forward(forward);

    ConvBackward backward{};
    static_cast<ConvInputs&>(backward) = forward;
    backward.dy = arrays.input(B * T * C, dtype).in();
    backward.dlast = arrays.input(B * (K - 1) * C).floats();
    backward.dx = arrays.output(B * T * C, dtype).out();
    backward.dweight = arrays.output(C * K).floats();
    backward.dbias = with_bias ? arrays.output(C).floats() : nullptr;
    backward.dstate = arrays.output(B * (K - 1) * C).floats();
    kernels.conv_backward(backward);
    return arrays.all_written();
}

static bool run_matrix(const Kernels& kernels) {
    Arrays arrays;
    const int64_t B = pick(0, 3), T = pick(0, 1) ? pick(1, 4) : pick(5, 90), H = pick(0, 5);
    const int64_t D = pick(0, 2) ? pick(1, 20) : pick(21, 70), R = pick(0, 1) ? D : pick(1, 20);
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    const bool scaled = pick(0, 2) == 0, with_v = !scaled && pick(0, 1);
    const float most = 1.5f / static_cast<float>(D);  // so that products do not overflow
    std::vector<int32_t> exponent(B * H, 3), exponents(scaled ? B * T * H : 0);
    MatrixForward forward{};
    forward.sizes = {B, T, H, R, D};
    forward.x = arrays.input(B * T * H * D * D, dtype, -most, most).in();
    forward.state = arrays.input(B * H * R * D).floats();
    forward.exponent = scaled ? exponent.data() : nullptr;
    forward.reset = with_v || R == D ? arrays.flags(B * T) : nullptr;
    forward.threads = static_cast<int>(pick(1, 5));
    if (with_v) forward.v = arrays.input(B * T * H * R * D, dtype).in();
    const Dtype wide = scaled ? Dtype::float32 : dtype;
    Numbers& h = arrays.output(B * T * H * R * D, wide);
    forward.h = h.out();
    forward.last = arrays.output(B * H * R * D).floats();
    forward.exponents = scaled ? exponents.data() : nullptr;
    kernels.matrix_forward(forward);

    MatrixBackward backward{};
    static_cast<MatrixInputs&>(backward) = forward;
    backward.h = h.in();
    backward.exponents = forward.exponents;
    backward.dh = arrays.input(B * T * H * R * D, wide).in();
    backward.dlast = arrays.input(B * H * R * D).floats();
    backward.dx = arrays.output(B * T * H * D * D, dtype).out();
    if (with_v) backward.dv = arrays.output(B * T * H * R * D, dtype).out();
    backward.dstate = arrays.output(B * H * R * D).floats();
    kernels.matrix_backward(backward);
    return arrays.all_written();
}

static bool run_normalise(const Kernels& kernels) {
    Arrays arrays;
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    NormaliseForward forward{};
    forward.sizes = {pick(0, 90), pick(1, 70), static_cast<float>(pick(1, 8))};
    const int64_t numbers = forward.sizes.count * forward.sizes.floats;
    forward.m = arrays.input(numbers).floats();
    forward.h = arrays.output(numbers, dtype).out();
    forward.size = arrays.output(forward.sizes.count).floats();
    forward.threads = static_cast<int>(pick(1, 3));
    kernels.normalise_forward(forward);

    NormaliseBackward backward{};
    backward.sizes = forward.sizes;
    backward.m = forward.m;
    backward.size = forward.size;
    backward.dh = arrays.input(numbers, dtype).in();
    backward.dsize = arrays.input(forward.sizes.count).floats();
    backward.dm = arrays.output(numbers).floats();
    backward.threads = forward.threads;
    kernels.normalise_backward(backward);
    return arrays.all_written();
}

static void share_options(Arrays& arrays, RankOneForward& forward, Dtype dtype) {
    const RankOneSizes& s = forward.sizes;
    const int64_t steps = s.B * s.T * s.H;
    if (s.M == 1 && pick(0, 1)) {
        forward.read_before = pick(0, 1);
        if (forward.read_before && pick(0, 1)) forward.bonus = arrays.input(s.H * s.K).floats();
        if (pick(0, 1)) forward.log_decay_v = arrays.input(steps * s.V, Dtype::float32, -3, 0).floats();
        if (pick(0, 1)) forward.log_input = arrays.input(steps).floats();
    } else if (pick(0, 2) == 0) {
        forward.beta = arrays.input(steps * s.M, Dtype::float32, 0, 2).floats();
    } else {
        forward.read = arrays.input(steps * s.M * s.K, dtype, -0.2f, 0.2f).in();
        if (pick(0, 1)) forward.write = arrays.input(steps * s.M * s.K, dtype, -0.2f, 0.2f).in();
    }
    forward.per_channel = pick(0, 1);
    if (pick(0, 2)) forward.log_decay = arrays.input(steps * (forward.per_channel ? s.K : 1), Dtype::float32, -200, 0).floats();
}

static bool run_rank_one(const Kernels& kernels) {
    Arrays arrays;
    const int64_t B = pick(0, 3), T = pick(0, 1) ? pick(1, 4) : pick(5, 50), M = pick(0, 2) ? 1 : pick(2, 3), H = pick(1, 5);
    const int64_t K = pick(0, 1) ? pick(0, 9) : pick(10, 70), V = pick(0, 1) ? pick(0, 9) : pick(10, 150);
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    const int64_t steps = B * T * H, rows = steps * M, states = B * H * K * V;
    RankOneForward forward{};
    forward.sizes = {B, T, M, H, K, V};
    forward.q = arrays.input(steps * K, dtype).in();
    forward.k = arrays.input(rows * K, dtype, -0.2f, 0.2f).in();
    forward.v = arrays.input(rows * V, dtype).in();
    share_options(arrays, forward, dtype);
    forward.reset = arrays.flags(B * T);
    forward.threads = static_cast<int>(pick(1, 3));
    forward.state = arrays.input(states).floats();
    forward.y = arrays.output(steps * V, dtype).out();
    forward.last = arrays.output(states).floats();
    forward.kept = arrays.output(states * forward.sizes.intervals()).floats();
    if (forward.reads()) forward.kept_reads = arrays.output(rows * V).floats();
    kernels.rank_one_forward(forward);

    RankOneBackward backward{};
    static_cast<RankOneInputs&>(backward) = forward;
    backward.kept = forward.kept, backward.kept_reads = forward.kept_reads;
    backward.dy = arrays.input(steps * V, dtype).in();
    backward.dlast = arrays.input(states).floats();
    backward.dq = arrays.output(steps * K, dtype).out();
    backward.dk = arrays.output(rows * K, dtype).out();
    backward.dv = arrays.output(rows * V, dtype).out();
    if (forward.read.data != nullptr) backward.dread = arrays.output(rows * K, dtype).out();
    if (forward.write.data != nullptr) backward.dwrite = arrays.output(rows * K, dtype).out();
    if (forward.beta) backward.dbeta = arrays.output(rows).floats();
    if (forward.log_decay) backward.dlog_decay = arrays.output(steps * (forward.per_channel ? K : 1)).floats();
    if (forward.log_decay_v) backward.dlog_decay_v = arrays.output(steps * V).floats();
    if (forward.log_input) backward.dlog_input = arrays.output(steps).floats();
    if (forward.bonus) backward.dbonus = arrays.output(H * K).floats();
    backward.dstate = arrays.output(states).floats();
    kernels.rank_one_backward(backward);
    return arrays.all_written();
}

static bool run_mru(const Kernels& kernels) {
    Arrays arrays;
    const int64_t B = pick(0, 3), T = pick(0, 1) ? pick(1, 4) : pick(5, 40), H = pick(0, 6);
    const int64_t D = pick(0, 3) ? pick(1, 20) : pick(21, 70), C = pick(0, 1) ? D : pick(1, 40);
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    const bool with_v = pick(0, 1), rescale = !with_v && pick(0, 1), decay = pick(0, 1);
    const float most = 0.5f / static_cast<float>(D);  // so that products do not overflow
    MruForward forward{};
    const MruSizes s = forward.sizes = {B, T, H, D, C};
    forward.builder = static_cast<MruBuilder>(pick(0, 2));
    forward.readout = static_cast<MruReadout>(pick(0, 2));
    forward.bound = 2;
    forward.rescale = rescale;
    const int64_t n = mru_elements(forward.builder, D), square = B * H * D * D;
    std::vector<int32_t> exponent(B * H, 3), last_exponent(B * H), kept_exponent(B * H * s.intervals());
    forward.elements = arrays.input(B * T * H * n, dtype, -most, most).in();
    if (with_v) forward.v = arrays.input(T * square, dtype).in();
    if (decay) forward.decay = arrays.input(B * T * H, Dtype::float32, 0.1f, 1).floats();
    forward.down = arrays.input(H * D * C).floats();
    std::vector<uint8_t> mask(B * T);
    for (uint8_t& real : mask) real = pick(0, 5) != 0;
    forward.reset = arrays.flags(B * T);
    forward.mask = pick(0, 1) ? mask.data() : nullptr;
    forward.threads = static_cast<int>(pick(1, 5));
    forward.state = arrays.input(square).floats();
    forward.exponent = rescale ? exponent.data() : nullptr;
    forward.y = arrays.output(B * T * H * D * C, dtype).out();
    forward.last = arrays.output(square).floats();
    forward.last_exponent = rescale ? last_exponent.data() : nullptr;
    float* kept = arrays.output(s.intervals() * square).floats();
    forward.kept = kept;
    forward.kept_exponent = rescale ? kept_exponent.data() : nullptr;
    kernels.mru_forward(forward);

    MruBackward backward{};
    static_cast<MruInputs&>(backward) = forward;
    backward.kept = kept;
    backward.kept_exponent = forward.kept_exponent;
    backward.dy = arrays.input(B * T * H * D * C, dtype).in();
    backward.dlast = arrays.input(square).floats();
    backward.delements = arrays.output(B * T * H * n, dtype).out();
    if (with_v) backward.dv = arrays.output(T * square, dtype).out();
    if (decay) backward.ddecay = arrays.output(B * T * H).floats();
    backward.ddown = arrays.output(H * D * C).floats();
    backward.dstate = arrays.output(square).floats();
    kernels.mru_backward(backward);
    return arrays.all_written();
}

int main(int count, char** arguments) {
    const double seconds = count > 1 ? std::atof(arguments[1]) : 20;
    const unsigned first = count > 2 ? static_cast<unsigned>(std::atoi(arguments[2])) : 0;
    const auto begin = std::chrono::steady_clock::now();
    unsigned seed = first;
    for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds; ++seed)
        for (int i = 0; i < runnable_kernels().count; ++i) {
            const Kernels& kernels = *runnable_kernels().tables[i];
            generator.seed(seed);
            if (!run_m2rnn(kernels) || !run_conv(kernels) || !run_matrix(kernels) || !run_normalise(kernels) ||
                !run_steps(kernels) || !run_rank_one(kernels) || !run_mru(kernels) || !run_cells(kernels) ||
                !run_snap(kernels)) {
                std::printf("%s: an output was not written in full: seed %u\n", kernels.instruction_set, seed);
                return 1;
            }
        }
    std::printf("%u passed, 0 failed\n", seed - first);
    return 0;
}
