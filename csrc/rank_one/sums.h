// Where the tasks of the backward pass write gradients to which other tasks contribute.
#pragma once

#include "common/sums.h"
#include "rank_one/rows.h"

namespace matrixstate {
namespace MATRIXSTATE_ISA {
namespace {

// The arrays themselves, or partial sums over slices of columns and, for the bonus, the batch.
struct RankOneSinks {
    Output dq, dk, dread, dwrite, dbeta, dlog_decay, dlog_input, dbonus;
};

class RankOneSums {
  public:
    RankOneSums(const RankOneBackward& in, const ColumnSplit& split)
        : dq_(rows(in, split, in.dq, 1, in.sizes.K)), dk_(rows(in, split, in.dk, in.sizes.M, in.sizes.K)),
          dread_(rows(in, split, in.dread, in.sizes.M, in.sizes.K)),
          dwrite_(rows(in, split, in.dwrite, in.sizes.M, in.sizes.K)),
          beta_(rows(in, split, floats(in.dbeta), in.sizes.M, 1)),
          decay_(rows(in, split, floats(in.dlog_decay), 1, in.per_channel ? in.sizes.K : 1)),
          input_(rows(in, split, floats(in.dlog_input), 1, 1)),
          bonus_(floats(in.dbonus), in.dbonus == nullptr ? 0 : in.sizes.H, in.sizes.B * split.slices, in.sizes.K) {}

    RankOneSinks sinks() const {
        return {dq_.sink(), dk_.sink(), dread_.sink(), dwrite_.sink(), beta_.sink(), decay_.sink(),
                input_.sink(), bonus_.sink()};
    }
    void reduce(int threads) const {
        for (const PartialSums* one : {&dq_, &dk_, &dread_, &dwrite_, &beta_, &decay_, &input_, &bonus_})
            one->reduce(threads);
    }

  private:
    static Output floats(float* data) { return {data, Dtype::float32}; }
    // A gradient of `many` rows per step and `size` numbers per row and head; `to` may be absent.
    static PartialSums rows(const RankOneBackward& in, const ColumnSplit& split, Output to, int64_t many,
                            int64_t size) {
        const RankOneSizes& s = in.sizes;
        return PartialSums(to, to.data == nullptr ? 0 : s.B * s.T * s.H * many, split.slices, size);
    }

    const PartialSums dq_, dk_, dread_, dwrite_, beta_, decay_, input_, bonus_;
};

}  // namespace
}  // namespace MATRIXSTATE_ISA
}  // namespace matrixstate
