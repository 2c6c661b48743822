// What the step loop needs of a model. Owns the interface; decoder.cc implements it on the CPU, later others on a GPU.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "kv/view.h"
#include "model/batch.h"
#include "model/step_work.h"

namespace penstock {

class DeviceSampler;

// Facts of a loaded model that the scheduler, the wire and the agent need.
struct RunnerInfo {
  std::string arch;        // "llama"
  std::string model_name;  // general.name of the file
  int32_t vocab_size;
  int32_t context_tokens;      // longest sequence, after any limit given on the command line
  int32_t blocks_total;        // KV blocks in the pool
  std::string kv_fingerprint;  // equal strings = exchangeable KV blocks
  int64_t weight_bytes;        // read once per decode step
  int64_t kv_bytes_per_token;
  int32_t embedding_dims;  // width of StepSequence::pooled
  StepWork work = {};      // unknown unless the runner tells
};

class Runner {
 public:
  virtual ~Runner() = default;
  virtual const RunnerInfo& info() const = 0;

  // Computes one step: appends K and V of every row to the paged cache and writes the logits of the last row of each
  // sequence with wants_logits, in order of sequences: logits [num_wanting, vocab_size] f32. Pools the final states of
  // sequences that ask for it.
  // A row's result depends on its own sequence only, bit for bit, whatever else is in the batch.
  // Allocates nothing after construction; batch.token_ids.size() <= the step_tokens_max given at construction.
  // With a device_sampler(), `logits` may be empty: they stay where they are, for it. Throws DeviceFailure when the device is
  // lost, and the process with it; anything else concerns this step alone.
  virtual void forward(const StepBatch& batch, std::span<float> logits) = 0;

  // Draws tokens where the logits are; nullptr: they are the processor's.
  virtual DeviceSampler* device_sampler() { return nullptr; }

  // What the memory of weights, K and V gives, measured. nullopt: it is the processor's.
  virtual std::optional<uint64_t> memory_bytes_per_second_max() { return std::nullopt; }

  // The paged cache as memory, for whoever moves whole blocks between engines. Blocks that forward() writes to in a step must not
  // be touched meanwhile, but for reading the layers that its watch was told; those that it reads must not be written to.
  virtual KvView kv() = 0;

  // Threads of parallel(), the caller included.
  virtual int32_t threads() const { return 1; }

  // Calls body(chunk) once for every chunk in [0, chunks), on any of the threads, and returns when all have returned:
  // the cores that forward() leaves idle, for work between the steps. The body must not throw. Allocates nothing.
  template <typename Body>
  void parallel(int32_t chunks, const Body& body) {
    run_chunks(chunks, &body, [](const void* context, int32_t chunk) { (*static_cast<const Body*>(context))(chunk); });
  }

 protected:
  using ChunkCall = void (*)(const void* context, int32_t chunk);
  virtual void run_chunks(int32_t chunks, const void* context, ChunkCall call) {
    for (int32_t chunk = 0; chunk < chunks; ++chunk) call(context, chunk);
  }
};

}  // namespace penstock
