// Bytes and operations of a step on paper. See roofline.h.
#include "model/roofline.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <initializer_list>
#include <utility>

#include "model/file_error.h"

namespace penstock {
namespace {

constexpr double kGiga = 1e9;
constexpr double kTera = 1e12;
constexpr int64_t kGigabyte = 1'000'000'000;

// Datasheets and architecture papers of NVIDIA; where a rate is stated with sparsity, half of it. The GeForce cards accumulate
// f16 in f32 at half the rate of f16.
//   A100      "NVIDIA A100 Tensor Core GPU" datasheet, SXM 80 GB: 2,039 GB/s, 312 TFLOPS, 624 TOPS, 19.5 TFLOPS
//   H100      "NVIDIA H100 Tensor Core GPU Architecture", SXM5: 3.35 TB/s, 989.4 TFLOPS, 1,978.9 TOPS, 66.9 TFLOPS
//   H200      "NVIDIA H200 Tensor Core GPU" datasheet, SXM: 4.8 TB/s, 141 GB, else as H100
//   B200      "NVIDIA Blackwell Architecture Technical Brief", HGX B200, per GPU: 8 TB/s, 2.25 PFLOPS, 4.5 POPS, 80 TFLOPS
//   RTX 4090  "NVIDIA Ada GPU Architecture", appendix A: 1,008 GB/s, 165.2 TFLOPS, 660.6 TOPS, 82.6 TFLOPS
//   RTX 5090  "NVIDIA RTX Blackwell GPU Architecture", appendix A: 1,792 GB/s, 209.5 TFLOPS, 838 TOPS, 104.8 TFLOPS
constexpr GpuFacts kGpus[] = {
    {"A100", 2039 * kGiga, 80 * kGigabyte, 312 * kTera, 624 * kTera, 19.5 * kTera},
    {"H100", 3350 * kGiga, 80 * kGigabyte, 989.4 * kTera, 1978.9 * kTera, 66.9 * kTera},
    {"H200", 4800 * kGiga, 141 * kGigabyte, 989.4 * kTera, 1978.9 * kTera, 66.9 * kTera},
    {"B200", 8000 * kGiga, 192 * kGigabyte, 2250 * kTera, 4500 * kTera, 80 * kTera},
    {"RTX 4090", 1008 * kGiga, 24 * kGigabyte, 165.2 * kTera, 660.6 * kTera, 82.6 * kTera},
    {"RTX 5090", 1792 * kGiga, 32 * kGigabyte, 209.5 * kTera, 838 * kTera, 104.8 * kTera},
};

// What a launch costs where nothing else does, inside a graph: from the end of a kernel to the begin of the next one. An
// assumption, of the size that published measurements have; bench/gpu.sh says what it is.
constexpr double kLaunchSeconds = 1.0e-6;

constexpr double kFloatBytes = 4;
// Operations of a value in a row-wise kernel: a dozen, none of which matters beside its bytes.
constexpr double kRowOperations = 12;

std::string plain(std::string_view name) {
  std::string text;
  for (const char letter : name) {
    if (letter != ' ' && letter != '-' && letter != '_')
      text.push_back(static_cast<char>(std::tolower(static_cast<unsigned char>(letter))));
  }
  return text.starts_with("rtx") ? text.substr(3) : text;
}

const char* role_name(TensorRole role) {
  switch (role) {
    case TensorRole::q:
      return "q";
    case TensorRole::k:
      return "k";
    case TensorRole::v:
      return "v";
    case TensorRole::attn_output:
      return "attn_output";
    case TensorRole::ffn_gate:
      return "ffn_gate";
    case TensorRole::ffn_up:
      return "ffn_up";
    case TensorRole::ffn_down:
      return "ffn_down";
    case TensorRole::head:
      return "head";
    default:
      return "embedding";
  }
}

class Steps {
 public:
  Steps(const RooflineModel& model, const RooflineStep& step, const GpuFacts& gpu)
      : c_(model.config), model_(model), step_(step), gpu_(gpu), rows_(double(step.sequences) * step.rows) {}

  std::vector<KernelWork> work() {
    const double layers = c_.layers;
    row_wise("embed", 1, rows_ * embedding_row_bytes(), rows_ * c_.dim);
    row_wise("rope_angles", 1, 0, rows_ * c_.rope_dims);
    // Reads the residual stream and what is added, writes the stream and what the products read.
    row_wise("add_rms_norm", 2 * c_.layers + 1, 0, 4 * (2 * layers + 1) * rows_ * c_.dim);
    products({TensorRole::q, TensorRole::k, TensorRole::v}, rows_);
    const double kv_bytes = double(c_.layers) * kv_layer_bytes(1);
    row_wise("rope_append", c_.layers, rows_ * kv_bytes, layers * rows_ * (2.0 * c_.q_dim() + 2.0 * c_.kv_dim()));
    attention();
    row_wise("convert_rows", c_.layers, 0, 2 * layers * rows_ * c_.q_dim());
    products({TensorRole::attn_output, TensorRole::ffn_gate, TensorRole::ffn_up}, rows_);
    row_wise("swiglu", c_.layers, 0, 3 * layers * rows_ * c_.ffn_dim);
    products({TensorRole::ffn_down}, rows_);
    products({TensorRole::head}, step_.sequences);
    row_wise("sample", 1, 0, double(step_.sequences) * c_.vocab_size);
    return std::move(work_);
  }

 private:
  void add(std::string kernel, int64_t launches, double bytes, double operations, double rate) {
    work_.push_back({std::move(kernel), launches, bytes, operations, bytes / gpu_.bytes_per_second, operations / rate});
  }

  // `floats`: what is read and written beside `bytes`.
  void row_wise(const char* kernel, int64_t launches, double bytes, double floats) {
    add(kernel, launches, bytes + floats * kFloatBytes, floats * kRowOperations, gpu_.float_per_second);
  }

  double embedding_row_bytes() const {
    for (const RooflineMatrix& m : model_.matrices) {
      if (m.role == TensorRole::embedding) return static_cast<double>(row_bytes(m.type, m.cols));
    }
    return 0;
  }

  double rate_of(TensorType type) const {
    if (is_quantized(type)) return gpu_.int8_per_second;
    return type == TensorType::f32 ? gpu_.float_per_second : gpu_.half_per_second;
  }

  void products(std::initializer_list<TensorRole> roles, double rows) {
    for (const TensorRole role : roles) {
      for (const RooflineMatrix& m : model_.matrices) {
        if (m.role != role) continue;
        const double weights = double(m.count) * m.rows * m.cols;
        const double weight_bytes = double(m.count) * m.rows * static_cast<double>(row_bytes(m.type, m.cols));
        const double in_bytes = is_quantized(m.type) ? 1 + 2 * kFloatBytes / kQuantBlock : m.type == TensorType::f32 ? 4 : 2;
        const double bytes = weight_bytes + m.count * rows * (m.cols * in_bytes + m.rows * kFloatBytes);
        add(std::string("matmul ") + role_name(role) + " " + tensor_type_facts(m.type).name, m.count, bytes,
            2 * weights * rows, rate_of(m.type));
      }
    }
  }

  // K and V of so many tokens in one layer.
  double kv_layer_bytes(double tokens) const {
    const KvShape shape{1, 1, c_.kv_heads, c_.head_dim, model_.kv_type};
    return tokens * static_cast<double>(shape.bytes_per_token());
  }

  // Positions that the rows of a sequence see, added up.
  double positions_seen() const {
    double seen = 0;
    for (int32_t row = 0; row < step_.rows; ++row) {
      const int32_t position = step_.context + row;
      seen += position + 1 - first_visible(position, c_.window_tokens);
    }
    return seen;
  }

  void attention() {
    const int32_t last = step_.context + step_.rows;
    const double seen_once = last - first_visible(step_.context, c_.window_tokens);
    const double layers = c_.layers;
    const double bytes = layers * (step_.sequences * kv_layer_bytes(seen_once) + 2 * rows_ * c_.q_dim() * kFloatBytes);
    const double operations = layers * step_.sequences * positions_seen() * 4.0 * c_.q_dim();
    // The second launch merges what the first one has split.
    add("attention", 2 * int64_t{c_.layers}, bytes, operations, gpu_.half_per_second);
  }

  const Config& c_;
  const RooflineModel& model_;
  RooflineStep step_;
  const GpuFacts& gpu_;
  double rows_;
  std::vector<KernelWork> work_;
};

struct Sum {
  double seconds = 0;
  double bytes = 0;
  double operations = 0;
  int64_t launches = 0;
};

Sum sum_of(std::span<const KernelWork> work) {
  Sum sum;
  for (const KernelWork& w : work) {
    sum.seconds += w.seconds();
    sum.bytes += w.bytes;
    sum.operations += w.operations;
    sum.launches += w.launches;
  }
  return sum;
}

template <typename... Values>
void line(std::string& page, const char* format, Values... values) {
  char text[200];
  std::snprintf(text, sizeof text, format, values...);
  page += text;
}

constexpr const char* kColumns = "%-26s %8lld %11.3f %11.2f %10.1f %10.1f  %s\n";

void add_table(std::string& page, const RooflineModel& model, const RooflineStep& step, const GpuFacts& gpu) {
  const std::vector<KernelWork> work = kernel_work(model, step, gpu);
  line(page, "%-26s %8s %11s %11s %10s %10s  %s\n", "kernel", "launches", "MB", "Gop", "memory us", "compute us", "bound by");
  for (const KernelWork& w : work) {
    line(page, kColumns, w.kernel.c_str(), static_cast<long long>(w.launches), w.bytes / 1e6, w.operations / 1e9,
         w.seconds_of_memory * 1e6, w.seconds_of_arithmetic * 1e6,
         w.seconds_of_memory >= w.seconds_of_arithmetic ? "memory" : "compute");
  }
  const Sum sum = sum_of(work);
  double memory = 0, arithmetic = 0;
  for (const KernelWork& w : work) memory += w.seconds_of_memory, arithmetic += w.seconds_of_arithmetic;
  line(page, kColumns, "all", static_cast<long long>(sum.launches), sum.bytes / 1e6, sum.operations / 1e9, memory * 1e6,
       arithmetic * 1e6, memory >= arithmetic ? "memory" : "compute");
}

struct PageStep {
  const char* name;
  RooflineStep step;
};
constexpr PageStep kPageSteps[] = {
    {"decode, 1 sequence", {1, 1, 1024}},     {"decode, 8 sequences", {8, 1, 1024}},
    {"decode, 32 sequences", {32, 1, 1024}},  {"decode, 128 sequences", {128, 1, 1024}},
    {"decode, 1 sequence", {1, 1, 16384}},    {"prefill, 512 tokens", {1, 512, 0}},
    {"prefill, 2,048 tokens", {1, 2048, 0}},
};

}  // namespace

std::span<const GpuFacts> gpus() { return kGpus; }

const GpuFacts* gpu_named(std::string_view name) {
  const std::string wanted = plain(name);
  for (const GpuFacts& gpu : kGpus) {
    if (plain(gpu.name) == wanted) return &gpu;
  }
  return nullptr;
}

RooflineModel roofline_model(const ModelSource& source, QuantizeTo quantize, KvType kv_type) {
  RooflineModel model{source.config, {}, kv_type};
  const Config& c = source.config;
  const auto put = [&](TensorRole role, TensorRole as, int32_t layer, int32_t rows, int32_t cols) {
    const std::string name = source.name_of(role, layer);
    const SourceTensor* tensor = source.find(name);
    if (tensor == nullptr || !tensor->type) {
      throw ModelFileError(source.path, 0, "tensor \"" + name + "\" is missing, or of a type that this engine does not have");
    }
    const TensorType type = stored_type(role, *tensor->type, cols, quantize);
    for (RooflineMatrix& m : model.matrices) {
      if (m.role != as || m.type != type) continue;
      ++m.count;
      return;
    }
    model.matrices.push_back({as, type, rows, cols, 1});
  };
  put(TensorRole::embedding, TensorRole::embedding, 0, c.vocab_rows, c.dim);
  for (int32_t i = 0; i < c.layers; ++i) {
    const auto in_layer = [&](TensorRole role, int32_t rows, int32_t cols) { put(role, role, i, rows, cols); };
    in_layer(TensorRole::q, c.q_dim(), c.dim);
    in_layer(TensorRole::k, c.kv_dim(), c.dim);
    in_layer(TensorRole::v, c.kv_dim(), c.dim);
    in_layer(TensorRole::attn_output, c.dim, c.q_dim());
    in_layer(TensorRole::ffn_gate, c.ffn_dim, c.dim);
    in_layer(TensorRole::ffn_up, c.ffn_dim, c.dim);
    in_layer(TensorRole::ffn_down, c.dim, c.ffn_dim);
  }
  put(source.tied_embedding ? TensorRole::embedding : TensorRole::head, TensorRole::head, 0, c.vocab_size, c.dim);
  return model;
}

std::vector<KernelWork> kernel_work(const RooflineModel& model, const RooflineStep& step, const GpuFacts& gpu) {
  return Steps(model, step, gpu).work();
}

std::string roofline_page(const RooflineModel& model, const GpuFacts& gpu) {
  std::string page;
  const Config& c = model.config;
  line(page, "PREDICTIONS, not measurements: what %s could do at best with %s, %s.\n", gpu.name, c.arch.c_str(),
       c.model_name.c_str());
  line(page, "Memory %.0f GB/s; tensor cores %.0f Tflop/s (f16, bf16), %.0f Top/s (int8); %.1f Tflop/s (f32).\n",
       gpu.bytes_per_second / kGiga, gpu.half_per_second / kTera, gpu.int8_per_second / kTera,
       gpu.float_per_second / kTera);
  double weight_bytes = 0;
  for (const RooflineMatrix& m : model.matrices) {
    if (m.role != TensorRole::embedding)
      weight_bytes += double(m.count) * m.rows * static_cast<double>(row_bytes(m.type, m.cols));
  }
  const KvShape kv{c.layers, 1, c.kv_heads, c.head_dim, model.kv_type};
  line(page, "%.3f GB of weights are read for each step; K and V (%s) take %.1f KB per token.\n\n", weight_bytes / kGiga,
       kv_type_name(model.kv_type), static_cast<double>(kv.bytes_per_token()) / 1e3);
  line(page, "%-26s %9s %12s %12s %14s\n", "step", "context", "ms", "tokens/s", "with launches");
  for (const PageStep& at : kPageSteps) {
    if (at.step.context + at.step.rows > c.context_tokens) continue;
    const Sum sum = sum_of(kernel_work(model, at.step, gpu));
    const double tokens = double(at.step.sequences) * at.step.rows;
    const double launched = sum.seconds + kLaunchSeconds * static_cast<double>(sum.launches);
    line(page, "%-26s %9d %12.3f %12.0f %14.0f\n", at.name, at.step.context, sum.seconds * 1e3, tokens / sum.seconds,
         tokens / launched);
  }
  line(page, "\n\"With launches\": %.1f us more for each kernel, an assumption.\n", kLaunchSeconds * 1e6);
  const int32_t context = std::min(1024, c.context_tokens - 1);
  line(page, "\nDecode, 1 sequence, context %d\n", context);
  add_table(page, model, {1, 1, context}, gpu);
  const int32_t prompt = std::min(2048, c.context_tokens);
  line(page, "\nPrefill, %d tokens\n", prompt);
  add_table(page, model, {1, prompt, 0}, gpu);
  return page;
}

}  // namespace penstock
