// What a simulated run of the scheduler is made of. Owns the ranges from which its limits and its requests are drawn.
#pragma once

#include <cstdint>
#include <random>
#include <span>

#include "sched/scheduler.h"

namespace penstock::testing {

// Collides nearly always, so that only the comparison of tokens keeps blocks apart.
inline uint64_t weak_hash(uint64_t parent, std::span<const int32_t> tokens) {
  return 1 + (parent + static_cast<uint64_t>(tokens[0])) % 2;
}

struct Workload {
  SchedulerConfig config;
  int requests;
  int32_t prompt_max;
  int32_t output_max;
  bool credits, cancels, deadlines, failures;
  int32_t prefixes;       // prompts begin with one of so many; 0: nothing in common
  int32_t pooling_share;  // percent
  int32_t handing_share;  // percent, of those that have a whole block
  int32_t resumed_share;  // percent, of those that sample
  bool reserves;
  bool weak_hash;
};

inline Workload draw_workload(std::mt19937& random) {
  const auto pick = [&](int32_t low, int32_t high) { return std::uniform_int_distribution<int32_t>(low, high)(random); };
  const auto chance = [&](int32_t percent) { return pick(1, 100) <= percent; };
  Workload w{};
  w.config.blocks_total = chance(50) ? pick(1, 8) : pick(4, 40);
  w.config.context_tokens = pick(2, 300);
  w.config.sequences_max = pick(1, 8);
  w.config.step_tokens_max = w.config.sequences_max + (chance(30) ? 0 : pick(0, 60));
  w.config.queue_max = pick(1, 20);
  if (chance(30)) w.config.prefill_tokens_max = pick(1, 40);
  if (chance(20)) w.config.queue_tokens_max = pick(1, 400);
  w.prefixes = chance(70) ? pick(1, 3) : 0;
  w.pooling_share = chance(40) ? pick(1, 60) : 0;
  w.handing_share = chance(40) ? pick(1, 60) : 0;
  w.resumed_share = chance(40) ? pick(1, 60) : 0;
  w.reserves = chance(50);
  if (chance(30)) w.config.reserved_blocks_max = pick(1, w.config.blocks_total);
  if (chance(20)) w.config.reservations_max = pick(1, 4);
  w.weak_hash = chance(20);
  w.config.block_hash = w.weak_hash ? weak_hash : hash_block;
  w.config.hash_seed = static_cast<uint64_t>(pick(0, 1000));
  w.requests = pick(1, 30);
  w.prompt_max = pick(1, 150);
  w.output_max = pick(1, 120);
  w.credits = chance(60);
  w.cancels = chance(40);
  w.deadlines = chance(40);
  w.failures = chance(10);
  return w;
}

}  // namespace penstock::testing
