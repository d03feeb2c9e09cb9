// The one-token steps on random shapes.
#pragma once

#include <vector>

#include "fuzz/draw.h"

static StepConv step_conv(Arrays& arrays, int64_t B, int64_t channels, bool present) {
    StepConv conv{};
    if (!present) return conv;
    conv.channels = channels, conv.taps = pick(1, 6);
    conv.weight = arrays.input(channels * conv.taps).floats();
    conv.past = arrays.input(B * (conv.taps - 1) * channels).floats();
    conv.last = arrays.output(B * (conv.taps - 1) * channels).floats();
    return conv;
}

static void run_mru_step(const Kernels& kernels, Arrays& arrays, Dtype dtype, Dtype wide) {
    const int64_t B = pick(0, 3), H = pick(1, 5), D = pick(1, 20), C = pick(0, 1) ? D : pick(1, 20);
    const bool rescaled = pick(0, 1), writes = !rescaled && pick(0, 2);
    std::vector<int32_t> exponents(2 * B * H, 1);
    MruStep s{};
    s.sizes = {B, 1, H, D, C};
    s.builder = static_cast<MruBuilder>(pick(0, 2));
    s.readout = static_cast<MruReadout>(pick(0, 2));
    s.bound = 2;
    s.elements = arrays.input(B * H * mru_elements(s.builder, D), dtype).in();
    s.conv = step_conv(arrays, B, s.values(), writes);
    if (writes) s.value = arrays.input(B * s.values(), dtype).in();
    if (writes && C == D && pick(0, 1)) s.skip = arrays.input(s.values()).floats();
    if (pick(0, 1)) {
        s.forget = arrays.input(B * H, dtype).in();
        s.log_rate = arrays.input(H).floats();
        s.bias = arrays.input(H).floats();
        s.balanced = writes && pick(0, 1);
    }
    if (pick(0, 1)) s.gate = arrays.input(B * s.channels(), dtype).in();
    s.down = arrays.input(s.channels()).floats();
    if (pick(0, 1)) s.norm = {arrays.input(s.channels()).floats(), 1e-5f};
    s.state = arrays.input(B * H * D * D).floats();
    if (rescaled) s.exponent = exponents.data(), s.after_exponent = exponents.data() + B * H;
    s.y = arrays.output(B * s.channels(), wide).out();
    s.after = arrays.output(B * H * D * D).floats();
    s.threads = static_cast<int>(pick(1, 3));
    kernels.mru_step(s);
}

static bool run_steps(const Kernels& kernels) {
    Arrays arrays;
    const Dtype dtype = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    const Dtype wide = pick(0, 1) ? Dtype::float32 : Dtype::bfloat16;
    const int64_t B = pick(0, 3), C = pick(0, 70);
    GatedConvStep conv{};
    conv.B = B;
    conv.conv = step_conv(arrays, B, C, true);
    conv.x = arrays.input(B * C, dtype).in();
    conv.gate = arrays.input(B * C, dtype).in();
    conv.norm = {arrays.input(C).floats(), 1e-5f};
    conv.y = arrays.output(B * C, wide).out();
    conv.threads = static_cast<int>(pick(1, 3));
    kernels.gated_conv_step(conv);

    M2rnnStep s{};
    s.B = B, s.H = pick(1, 6), s.K = pick(1, 40), s.V = pick(1, 40);
    for (int64_t* heads : {&s.Hq, &s.Hk, &s.Hv, &s.Hw, &s.Hf, &s.Hg}) *heads = divisor_of(s.H);
    s.unit_keys = pick(0, 1);
    s.x = arrays.input(B * s.width(), dtype).in();
    s.conv = step_conv(arrays, B, s.channels(), pick(0, 1));
    s.log_rate = arrays.input(s.Hf).floats();
    s.bias = arrays.input(s.Hf).floats();
    s.w = arrays.input(s.Hw * s.V * s.V, Dtype::float32, -0.3f, 0.3f).floats();
    s.residual = pick(0, 1) ? arrays.input(s.H * s.V).floats() : nullptr;
    s.norm = {arrays.input(s.H * s.V).floats(), 1e-5f};
    s.state = arrays.input(B * s.H * s.K * s.V).floats();
    s.y = arrays.output(B * s.H * s.V, wide).out();
    s.after = arrays.output(B * s.H * s.K * s.V).floats();
    s.threads = static_cast<int>(pick(1, 3));
    kernels.m2rnn_step(s);
    run_mru_step(kernels, arrays, dtype, wide);
    return arrays.all_written();
}
