// See load.h.
#include "model/cuda/load.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "model/cuda/decoder.h"
#include "model/cuda/kernel_limits.h"
#include "model/load_parts.h"
#include "model/source.h"

namespace penstock {

using namespace cuda;

namespace {

// Of the free memory, in hundredths: the rest is for the runtime's own needs, for graphs, and for others on the device.
constexpr int64_t kFreePercent = 90;

std::string mib(int64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

void check_for_device(const LoadOptions& options, const ModelSource& source) {
  if (options.kv_type == KvType::f32)
    throw std::invalid_argument("kv_type f32 is for the processor: on a CUDA device f16, bf16 or q8_0");
  const auto& tensors = source.tensors();
  const bool quantised = options.quantize.has_value() || std::any_of(tensors.begin(), tensors.end(), [](const SourceTensor& tensor) {
    return tensor.type.has_value() && is_quantized(*tensor.type);
  });
  check_kernel_limits(source.config, {0, options.step_tokens_max, options.step_sequences_max}, quantised);
}

// Throws std::invalid_argument where the library is asked for and is not in this build.
GemmLibrary library_of(GemmChoice choice) {
  if (choice == GemmChoice::own || (choice == GemmChoice::automatic && !Gemm::has_library())) return GemmLibrary::own;
  if (!Gemm::has_library())
    throw std::invalid_argument("--gemm cublaslt: this engine was built without cuBLASLt, which CMake looks for beside the CUDA "
                                "toolkit; --gemm auto or own goes without");
  return GemmLibrary::cublaslt;
}

class Loading {
 public:
  explicit Loading(const LoadOptions& options)
      : options_(options), facts_(open_device(options.device.index)), source_(ModelSource::open(options.path)) {
    check_for_device(options, source_);
    (void)library_of(options.gemm);  // before weights are read for minutes
  }

  std::unique_ptr<Runner> load() {
    auto stream = std::make_unique<Stream>();
    auto threads = std::make_unique<ThreadPool>(thread_count(options_));
    // Packed in the processor's memory, where every thread can do a part of it, and gone when they are on the device.
    Weights weights = load_weights(source_, device_layout(), *threads, options_.quantize, options_.progress);
    const FormsUsed forms(weights);
    CudaDecoderOptions decoder{
        .facts = facts_,
        .device = options_.device.index,
        .limits = {0, options_.step_tokens_max, options_.step_sequences_max},
        .weight_bytes = weights.step_bytes,
        .weights_identity = weights.identity,
        .graphs = options_.device_graphs,
        .gemm = library_of(options_.gemm),
    };
    const KvShape shape = divide(weights, forms, decoder);
    Config& config = source_.config;
    config.context_tokens = decoder.limits.context_tokens;
    auto pool = std::make_unique<DevicePool>(*stream, needed(weights, forms, decoder, shape));
    DeviceWeights on_device = upload_weights(*stream, *pool, weights, config.rope_frequencies);
    weights.memory = PageMemory();
    return std::make_unique<CudaDecoder>(std::move(config), decoder, std::move(stream), std::move(pool),
                                         std::move(on_device), forms, shape, std::move(threads));
  }

 private:
  // Bytes for everything with this pool of K and V.
  int64_t needed(const Weights& weights, const FormsUsed& forms, const CudaDecoderOptions& decoder,
                 const KvShape& shape) const {
    DevicePool counted;
    const Stream none;
    upload_weights(none, counted, weights, source_.config.rope_frequencies);
    DecoderMemory::count(counted, source_.config, decoder, forms, shape);
    return counted.taken();
  }

  // K and V get what the options say, or what is left; sets the longest context.
  KvShape divide(const Weights& weights, const FormsUsed& forms, CudaDecoderOptions& decoder) const {
    const int64_t budget = options_.device_bytes_max.value_or(facts_.free_bytes / 100 * kFreePercent);
    const bool told = options_.blocks_total.has_value() || options_.kv_bytes_max.has_value();
    // Scratch grows a little with the context, and so with the pool: what is left is divided by what one more block takes.
    KvShape shape{};
    const auto count = [&](int64_t kv_bytes) {
      shape = kv_shape_for(options_, source_.config, KvTiles::cuda, kv_bytes);
      decoder.limits.context_tokens = context_tokens_for(options_, source_.config, shape);
      return needed(weights, forms, decoder, shape);
    };
    if (told) {
      require_fits(count(options_.kv_bytes_max.value_or(1)), budget);
      return shape;
    }
    const int64_t block_bytes = kv_shape_for(one_block(), source_.config, KvTiles::cuda, 0).bytes_total();
    require_fits(count(block_bytes), budget);
    int64_t kv_bytes = budget;
    for (int64_t over = count(kv_bytes) - budget; over > 0; over = count(kv_bytes) - budget)
      kv_bytes = std::max(kv_bytes - over, block_bytes);
    return shape;
  }

  LoadOptions one_block() const {
    LoadOptions options = options_;
    options.blocks_total = 1;
    return options;
  }

  void require_fits(int64_t bytes, int64_t budget) const {
    if (bytes <= budget) return;
    throw DeviceMemoryShort("weights, scratch and K and V need " + mib(bytes) + " of " + options_.device.name() + " (" +
                            facts_.name + "), and there are " + mib(budget) + " of " + mib(facts_.total_bytes) +
                            ": fewer --blocks, a smaller --kv-mib, --step-tokens or --sequences, or a smaller model");
  }

  const LoadOptions& options_;
  DeviceFacts facts_;
  ModelSource source_;
};

}  // namespace

std::unique_ptr<Runner> load_cuda_model(const LoadOptions& options) {
  check_load_options(options);
  return guarded([&] { return Loading(options).load(); });
}

}  // namespace penstock
