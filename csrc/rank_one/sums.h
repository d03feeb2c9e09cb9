// Where the tasks of the backward pass write what other tasks have a part in.
#pragma once

#include "common/sums.h"
#include "rank_one/rows.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// The gradients themselves, or partial sums of slices of columns and of the batch.
struct RankOneSinks {
    Output dq, dk, dread, dwrite, dbeta, dlog_decay, dlog_input, dbonus;
};

class RankOneSums {
  public:
    RankOneSums(const RankOneBackward& in, const ColumnCut& cut)
        : dq_(rows(in, cut, in.dq, 1, in.sizes.K)), dk_(rows(in, cut, in.dk, in.sizes.M, in.sizes.K)),
          dread_(rows(in, cut, in.dread, in.sizes.M, in.sizes.K)),
          dwrite_(rows(in, cut, in.dwrite, in.sizes.M, in.sizes.K)),
          beta_(rows(in, cut, floats(in.dbeta), in.sizes.M, 1)),
          decay_(rows(in, cut, floats(in.dlog_decay), 1, in.per_channel ? in.sizes.K : 1)),
          input_(rows(in, cut, floats(in.dlog_input), 1, 1)),
          bonus_(floats(in.dbonus), in.dbonus == nullptr ? 0 : in.sizes.H, in.sizes.B * cut.slices, in.sizes.K) {}

    RankOneSinks sinks() const {
        return {dq_.sink(), dk_.sink(), dread_.sink(), dwrite_.sink(), beta_.sink(), decay_.sink(),
                input_.sink(), bonus_.sink()};
    }
    void finish(int threads) const {
        for (const Shared* one : {&dq_, &dk_, &dread_, &dwrite_, &beta_, &decay_, &input_, &bonus_}) one->finish(threads);
    }

  private:
    static Output floats(float* data) { return {data, Dtype::float32}; }
    // An array with `size` numbers of each head of each of a step's `many` rows; it may be absent.
    static Shared rows(const RankOneBackward& in, const ColumnCut& cut, Output to, int64_t many, int64_t size) {
        const RankOneSizes& s = in.sizes;
        return Shared(to, to.data == nullptr ? 0 : s.B * s.T * s.H * many, cut.slices, size);
    }

    const Shared dq_, dk_, dread_, dwrite_, beta_, decay_, input_, bonus_;
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
