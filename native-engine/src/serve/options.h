// The command line. Owns the options, their defaults and limits; pure, so that a wrong one is tested without a process.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "kv/cache.h"
#include "model/device.h"
#include "ops/tensor_type.h"
#include "serve/log.h"

namespace penstock {

struct Options {
  std::string model_path;               // a GGUF file or a Hugging Face folder
  std::string socket_path;              // empty only with check_only and roofline_gpu
  int32_t threads = 0;                  // 0 = one per core
  std::optional<int32_t> blocks_total;  // absent: from kv_mib
  std::optional<int32_t> kv_mib;        // absent: the loader's default
  Device device;
  std::optional<int32_t> device_memory_mib;  // absent: most of what is free
  GemmChoice gemm = GemmChoice::own;         // of a GPU
  KvType kv_type = KvType::f16;
  int32_t context_tokens = 0;  // 0 = the model's
  int32_t sequences_max = 32;
  int32_t step_tokens_max = 128;
  std::optional<int32_t> prefill_tokens_max;  // of a step that also decodes; absent: half of step_tokens_max
  std::optional<TensorType> quantize;         // absent: weights as the file has them
  LogLevel log_level = LogLevel::Info;
  bool check_only = false;
  std::string roofline_gpu;  // empty: this is not what is asked for; else of gpus()
  bool die_with_parent = false;
  std::optional<std::string> kv_listen;  // see HandoffOptions
};

struct HelpWanted {};
struct OptionError {
  std::string message;  // names the argument
};

// `arguments` without the program's name.
std::variant<Options, HelpWanted, OptionError> parse_options(std::span<const std::string_view> arguments);

// What --help prints.
std::string_view help_text();

}  // namespace penstock
