#include "model/load.h"

#include <algorithm>
#include <limits>
#include <new>
#include <stdexcept>
#include <thread>

#include "model/config.h"
#include "model/decoder.h"
#include "model/load_parts.h"
#include "model/source.h"
#include "model/weights.h"
#include "ops/quantize_weights.h"

namespace penstock {

namespace {

// Scratch grows with each of these; the bounds keep a mistyped option from asking for all memory.
constexpr int32_t kStepTokensMax = 1 << 16;
constexpr int32_t kStepSequencesMax = 1 << 14;
// All of KV addressable with 48 bits, whatever the options say.
constexpr int64_t kKvBytesMax = int64_t{1} << 46;

}  // namespace

void check_load_options(const LoadOptions& options) {
  const auto require = [](bool holds, const char* rule) {
    if (!holds) throw std::invalid_argument(rule);
  };
  require(options.threads >= 0, "threads must not be negative");
  require(!options.blocks_total || *options.blocks_total >= 1, "blocks_total must be at least 1");
  require(!options.kv_bytes_max || *options.kv_bytes_max >= 1, "kv_bytes_max must be positive");
  require(!options.device_bytes_max || *options.device_bytes_max >= 1, "device_bytes_max must be positive");
  require(options.context_tokens_max >= 0, "context_tokens_max must not be negative");
  require(options.step_tokens_max >= 1 && options.step_tokens_max <= kStepTokensMax,
          "step_tokens_max must be 1 to 65536");
  require(options.step_sequences_max >= 1 && options.step_sequences_max <= kStepSequencesMax,
          "step_sequences_max must be 1 to 16384");
  require(!options.quantize || can_quantize_to(*options.quantize), "weights can be quantised to Q8_0 and Q4_0");
}

int32_t thread_count(const LoadOptions& options) {
  if (options.threads > 0) return options.threads;
  return static_cast<int32_t>(std::clamp(std::thread::hardware_concurrency(), 1u, 256u));
}

KvShape kv_shape_for(const LoadOptions& options, const Config& config, KvTiles tiles, int64_t bytes_max) {
  if (!kv_type_fits(options.kv_type, config.head_dim)) {
    throw std::invalid_argument("kv_type " + std::string(kv_type_name(options.kv_type)) +
                                " needs heads of a multiple of " + std::to_string(kKvQuantBlock) +
                                " dimensions; this model's have " + std::to_string(config.head_dim));
  }
  KvShape shape{config.layers, 1, config.kv_heads, config.head_dim, options.kv_type, tiles};
  const int64_t block_bytes = shape.bytes_total();  // of one block in all layers
  const int64_t fitting = std::min(bytes_max, kKvBytesMax) / block_bytes;
  const int64_t blocks = options.blocks_total ? int64_t{*options.blocks_total} : fitting;
  if (blocks < 1)
    throw std::invalid_argument("there is less memory for K and V than one block of " + std::to_string(block_bytes) + " bytes");
  if (blocks > kKvBytesMax / block_bytes) throw std::bad_alloc();
  // Positions are 32-bit, so more blocks than this could never be filled by one sequence, and rarely by many.
  constexpr int64_t kBlocksMax = std::numeric_limits<int32_t>::max() / kBlockTokens;
  shape.blocks_total = static_cast<int32_t>(std::min(blocks, kBlocksMax));
  return shape;
}

int32_t context_tokens_for(const LoadOptions& options, const Config& config, const KvShape& shape) {
  const int32_t context = std::min(config.context_tokens, shape.blocks_total * kBlockTokens);
  return options.context_tokens_max > 0 ? std::min(context, options.context_tokens_max) : context;
}

std::unique_ptr<Runner> load_model(const LoadOptions& options) {
  check_load_options(options);
  if (options.device.kind == DeviceKind::cuda) {
    if (options.cuda == nullptr) throw std::invalid_argument("this engine was built without CUDA");
    return options.cuda(options);
  }
  if (options.kv_type == KvType::bf16) throw std::invalid_argument("kv_type bf16 needs a CUDA device");
  const Kernels& kernels = choose_kernels(options.kernels);
  ModelSource source = ModelSource::open(options.path);
  Config& config = source.config;

  const int64_t kv_bytes_max = options.kv_bytes_max.value_or(kDefaultKvBytesMax);
  const KvShape shape = kv_shape_for(options, config, KvTiles::processor, kv_bytes_max);
  config.context_tokens = context_tokens_for(options, config, shape);

  auto pool = std::make_unique<ThreadPool>(thread_count(options));
  Weights weights = load_weights(source, layout_of(kernels), *pool, options.quantize, options.progress);
  const DecoderLimits limits{config.context_tokens, options.step_tokens_max, options.step_sequences_max};
  return std::make_unique<Decoder>(std::move(config), std::move(weights), kernels, shape, limits, std::move(pool));
}

}  // namespace penstock
