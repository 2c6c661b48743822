// Where embeddings grow while their prompts are computed. Owns one vector for each running sequence that asks for one,
// and what a sum of states becomes at the end; the summing itself is the runner's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sched/scheduler.h"

namespace penstock {

class PooledStates {
 public:
  // dims: RunnerInfo::embedding_dims. Takes no memory before prepare().
  PooledStates(int32_t sequences_max, int32_t dims) : sequences_max_(sequences_max), dims_(dims) {}

  // Before the first sequence with pooling is submitted: steps allocate nothing.
  void prepare();
  // Gives each pooling sequence of the step its vector, emptied where it starts from its first token, which it also
  // does after a preemption.
  void attach(StepPlan& plan);
  // [dims] the embedding of a sequence whose prompt is complete, not normalised to length 1; valid until the next step
  // it takes part in. Call once. False where a value is not finite.
  bool complete(const Sequence& sequence, std::span<const float>& values);

 private:
  std::span<float> vector_of(const Sequence& sequence);

  int32_t sequences_max_;
  int32_t dims_;
  std::vector<float> states_;  // [sequences_max, dims] by Sequence::slot
};

}  // namespace penstock
