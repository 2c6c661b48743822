// Parsing of the command line. See options.h.
#include "serve/options.h"

#include <charconv>
#include <limits>

#include "model/roofline.h"

namespace penstock {
namespace {

// Sixteen times the cores of any machine this runs on, and what a wrong digit gives.
constexpr int32_t kThreadsMax = 1024;
// The scheduler walks the running sequences a few times per step.
constexpr int32_t kSequencesMax = 1024;
constexpr int32_t kStepTokensMax = 16 * 1024;
constexpr int32_t kKvMibMax = 1024 * 1024;
// More GPUs than any host has.
constexpr int32_t kDeviceIndexMax = 255;

std::optional<KvType> kv_type_named(std::string_view name) {
  for (KvType type : {KvType::f16, KvType::q8_0, KvType::f32, KvType::bf16}) {
    if (name == kv_type_name(type)) return type;
  }
  return std::nullopt;
}

std::optional<int32_t> parse_integer(std::string_view text, int32_t low, int32_t high) {
  int32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) return std::nullopt;
  return value;
}

std::optional<Device> device_named(std::string_view name) {
  if (name == "cpu") return Device{};
  constexpr std::string_view kCuda = "cuda";
  if (!name.starts_with(kCuda)) return std::nullopt;
  const std::string_view rest = name.substr(kCuda.size());
  if (rest.empty()) return Device{.kind = DeviceKind::cuda};
  const auto index = rest.front() == ':' ? parse_integer(rest.substr(1), 0, kDeviceIndexMax) : std::nullopt;
  if (!index.has_value()) return std::nullopt;
  return Device{.kind = DeviceKind::cuda, .index = *index};
}

std::optional<GemmChoice> gemm_named(std::string_view name) {
  if (name == "own") return GemmChoice::own;
  if (name == "cublaslt") return GemmChoice::cublaslt;
  if (name == "auto") return GemmChoice::automatic;
  return std::nullopt;
}

}  // namespace

std::string_view help_text() {
  return R"(penstock-engine: computes tokens for one agent over a Unix socket.

  penstock-engine --model PATH --socket PATH [options]
  penstock-engine --model PATH --check [options]
  penstock-engine --roofline PATH GPU [--quantize TYPE] [--kv-type TYPE]

  --model PATH        GGUF file, or Hugging Face folder (config.json and safetensors)
  --socket PATH       Unix socket to listen on; made with mode 0600, a stale one is replaced
  --check             load the model, print what it is, exit
  --roofline PATH GPU print what a GPU could do with the model at best, from its datasheet: A100, H100, H200, B200, "RTX 4090" or
                      "RTX 5090". Predictions; nothing is loaded, and no GPU is needed
  --quantize TYPE     turn F32, F16 and BF16 weights into q8_0 or q4_0 while loading; none leaves them (default none).
                      With q4_0, embedding and head become q8_0. Norms, biases and rows that are no whole blocks of 32
                      stay as they are
  --device DEVICE     cpu, or cuda or cuda:N for a GPU, where this engine was built with CUDA (default cpu)
  --device-memory-mib N
                      of the GPU's memory, for weights, scratch and KV blocks (default: most of what is free)
  --gemm WHO          who multiplies f16 and bf16 weights with 128 rows and more of prompts on a GPU: own kernels; cublaslt,
                      which an engine without it refuses; auto for cublaslt where it is there. With cublaslt a row's bits
                      depend on its company (default own)
  --threads N         compute threads; 0 = one per core (default 0)
  --blocks N          KV blocks of 16 tokens (default: as many as --kv-mib holds)
  --kv-mib N          memory for KV blocks in MiB (default 512; on a GPU, what weights and scratch leave)
  --kv-type TYPE      how keys and values are stored: f16, q8_0 (about half the memory, slightly less exact; heads must
                      have a multiple of 32 dimensions), f32 (cpu only) or bf16 (cuda only) (default f16)
  --context N         longest sequence in tokens; 0 = the model's (default 0)
  --sequences N       sequences running at once (default 32)
  --step-tokens N     tokens computed in one step, at least --sequences (default 128)
  --prefill-tokens N  of these, tokens of prompts in a step that also decodes: fewer make the next token of others come
                      sooner and the prompt later (default half of --step-tokens)
  --kv-listen ADDR    where other engines hand over keys and values: unix:PATH or tcp:HOST:PORT (port 0: any), or several in
                      one argument, 'unix:PATH tcp:HOST:PORT': the other engine takes the first that it reaches, and over
                      unix shared memory. TCP is neither encrypted nor meant for more than a network of one's own hosts
                      (default: nowhere)
  --log-level LEVEL   error, warn, info or debug (default info)
  --die-with-parent   end when the process that started this one ends (Linux)
  --help              print this

Exit codes: 0 ended as asked, 1 internal error, 2 bad argument or model file, 3 the socket is in use, 4 the GPU failed: another
process may do better.
)";
}

std::variant<Options, HelpWanted, OptionError> parse_options(std::span<const std::string_view> arguments) {
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string_view name = arguments[i];
    if (name == "--help" || name == "-h") return HelpWanted{};
    if (name == "--check") {
      options.check_only = true;
      continue;
    }
    if (name == "--die-with-parent") {
      options.die_with_parent = true;
      continue;
    }
    if (name == "--roofline") {
      if (i + 2 >= arguments.size()) return OptionError{"--roofline needs a path and a GPU"};
      options.model_path = arguments[++i];
      options.roofline_gpu = arguments[++i];
      if (gpu_named(options.roofline_gpu) == nullptr) {
        std::string known;
        for (const GpuFacts& gpu : gpus()) known += (known.empty() ? "" : ", ") + std::string(gpu.name);
        return OptionError{"--roofline knows " + known};
      }
      continue;
    }
    if (!name.starts_with("--")) return OptionError{"unexpected argument " + std::string(name)};
    std::optional<std::string_view> value;
    if (const size_t equals = name.find('='); equals != std::string_view::npos) {
      value = name.substr(equals + 1);
      name = name.substr(0, equals);
    } else if (i + 1 < arguments.size()) {
      value = arguments[++i];
    }

    std::optional<int32_t> number;
    const auto integer = [&](int32_t low, int32_t high) -> std::optional<OptionError> {
      if (value.has_value()) number = parse_integer(*value, low, high);
      if (number.has_value()) return std::nullopt;
      return OptionError{std::string(name) + " needs a whole number from " + std::to_string(low) + " to " +
                         std::to_string(high)};
    };
    constexpr int32_t kAny = std::numeric_limits<int32_t>::max();
    std::optional<OptionError> error;
    if (name == "--kv-listen") {
      if (!value.has_value() || !(value->starts_with("unix:") || value->starts_with("tcp:")))
        return OptionError{"--kv-listen needs unix:PATH or tcp:HOST:PORT"};
      options.kv_listen = std::string(*value);
    } else if (name == "--model" || name == "--socket") {
      if (!value.has_value() || value->empty()) return OptionError{std::string(name) + " needs a path"};
      (name == "--model" ? options.model_path : options.socket_path) = *value;
    } else if (name == "--threads") {
      if (!(error = integer(0, kThreadsMax))) options.threads = *number;
    } else if (name == "--blocks") {
      if (!(error = integer(1, kAny))) options.blocks_total = number;
    } else if (name == "--kv-mib") {
      if (!(error = integer(1, kKvMibMax))) options.kv_mib = number;
    } else if (name == "--kv-type") {
      const auto type = value.has_value() ? kv_type_named(*value) : std::nullopt;
      if (!type.has_value()) return OptionError{"--kv-type needs f16, q8_0, f32 or bf16"};
      options.kv_type = *type;
    } else if (name == "--device") {
      const auto device = value.has_value() ? device_named(*value) : std::nullopt;
      if (!device.has_value()) return OptionError{"--device needs cpu, cuda or cuda:N"};
      options.device = *device;
    } else if (name == "--device-memory-mib") {
      if (!(error = integer(1, kKvMibMax))) options.device_memory_mib = number;
    } else if (name == "--gemm") {
      const auto choice = value.has_value() ? gemm_named(*value) : std::nullopt;
      if (!choice.has_value()) return OptionError{"--gemm needs own, cublaslt or auto"};
      options.gemm = *choice;
    } else if (name == "--context") {
      if (!(error = integer(0, kAny))) options.context_tokens = *number;
    } else if (name == "--sequences") {
      if (!(error = integer(1, kSequencesMax))) options.sequences_max = *number;
    } else if (name == "--step-tokens") {
      if (!(error = integer(1, kStepTokensMax))) options.step_tokens_max = *number;
    } else if (name == "--quantize") {
      if (value == "q8_0") {
        options.quantize = TensorType::q8_0;
      } else if (value == "q4_0") {
        options.quantize = TensorType::q4_0;
      } else if (value == "none") {
        options.quantize.reset();
      } else {
        return OptionError{"--quantize needs none, q8_0 or q4_0"};
      }
    } else if (name == "--prefill-tokens") {
      if (!(error = integer(1, kStepTokensMax))) options.prefill_tokens_max = *number;
    } else if (name == "--log-level") {
      const auto level = value.has_value() ? log_level_named(*value) : std::nullopt;
      if (!level.has_value()) return OptionError{"--log-level needs error, warn, info or debug"};
      options.log_level = *level;
    } else {
      return OptionError{"unknown option " + std::string(name)};
    }
    if (error.has_value()) return *error;
  }
  if (options.model_path.empty()) return OptionError{"--model is needed"};
  if (options.socket_path.empty() && !options.check_only && options.roofline_gpu.empty()) return OptionError{"--socket is needed"};
  if (options.blocks_total.has_value() && options.kv_mib.has_value())
    return OptionError{"--blocks and --kv-mib say the same thing: give one"};
  if (options.device_memory_mib.has_value() && options.device.kind == DeviceKind::cpu)
    return OptionError{"--device-memory-mib is for --device cuda"};
  if (options.gemm != GemmChoice::own && options.device.kind == DeviceKind::cpu)
    return OptionError{"--gemm is for --device cuda"};
  if (options.context_tokens == 1)
    return OptionError{"--context must be 0 or at least 2: a prompt and an output need a token each"};
  if (options.step_tokens_max < options.sequences_max) return OptionError{"--step-tokens must be at least --sequences"};
  return options;
}

}  // namespace penstock
