// The checks that the one-token steps of several mixers share.
#pragma once

#include "bindings/checks.h"
#include "common/step.h"

namespace matrixstate {

// The short convolution of a step, or an empty one where all three arrays are absent.
inline StepConv convolution(const Checker& check, const OptionalArray& weight, const OptionalArray& past,
                            const OptionalArray& last, int64_t B, int64_t channels) {
    StepConv conv{};
    check.require(weight.has_value() == past.has_value() && past.has_value() == last.has_value(),
                  "past and last must be given where there is a convolution and only there");
    if (!weight) return conv;
    conv.channels = channels, conv.taps = check.sizes("weight", *weight, 2)[1];
    check.require(conv.taps > 0, "weight must have at least one step");
    conv.weight = check.floats("weight", weight, {channels, conv.taps});
    conv.past = check.floats("past", past, {B, conv.taps - 1, channels});
    conv.last = check.floats("last", last, {B, conv.taps - 1, channels});
    return conv;
}

}  // namespace matrixstate
