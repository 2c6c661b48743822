#include "commands.h"

#include <exception>
#include <fstream>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "ceilings.h"
#include "perplexity.h"
#include "workload.h"

namespace penstock::bench {

namespace {

std::vector<std::vector<int32_t>> read_windows(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<std::vector<int32_t>> windows;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string kind;
    if (!(words >> kind) || kind != "window") continue;
    windows.emplace_back();
    for (int32_t id; words >> id;) windows.back().push_back(id);
  }
  return windows;
}

// A field of /proc/self/status in bytes.
std::optional<int64_t> status_bytes(const std::string& field) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(field + ":")) return std::stoll(line.substr(field.size() + 1)) * 1024;
  }
  return std::nullopt;
}

std::string json_of(const Taken& taken) {
  std::ostringstream json;
  json.precision(9);
  json << "{\"seconds\":" << taken.seconds << ",\"cpuSeconds\":" << taken.cpu_seconds << "}";
  return json.str();
}

std::string answer(Runner& runner, Workload& single, Workload& batch, const CeilingProbe& probe,
                   const std::string& line) {
  std::istringstream words(line);
  std::ostringstream json;
  json.precision(9);
  std::string command;
  words >> command;
  if (command == "prefill") {
    int32_t tokens = 0;
    words >> tokens;
    json << json_of(single.prefill(tokens));
  } else if (command == "extend") {
    int32_t context = 0;
    int32_t tokens = 0;
    words >> context >> tokens;
    json << json_of(single.extend(context, tokens));
  } else if (command == "decode") {
    int32_t context = 0;
    int32_t steps = 0;
    int32_t sequences = 0;
    words >> context >> steps >> sequences;
    json << json_of((sequences == 1 ? single : batch).decode(context, steps, sequences));
  } else if (command == "ceilings") {
    const Ceilings found = probe.measure();
    json << "{\"read\":" << found.read_bytes_per_second;
    if (found.int8_macs_per_second) json << ",\"int8\":" << *found.int8_macs_per_second;
    if (found.f32_macs_per_second) json << ",\"f32\":" << *found.f32_macs_per_second;
    json << "}";
  } else if (command == "perplexity") {
    std::string path;
    std::getline(words >> std::ws, path);
    json << "{\"perplexity\":" << perplexity(runner, read_windows(path)) << "}";
  } else if (command == "memory") {
    const auto rss = status_bytes("VmRSS");
    const auto peak = status_bytes("VmHWM");
    json << "{";
    if (rss) json << "\"rss\":" << *rss;
    if (rss && peak) json << ",";
    if (peak) json << "\"peak\":" << *peak;
    json << "}";
  } else {
    throw std::invalid_argument("there is no such command");
  }
  return json.str();
}

// Messages of our own and of the standard library hold no control characters.
std::string error_json(const std::string& message) {
  std::string quoted;
  for (const char c : message) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return "{\"error\":\"" + quoted + "\"}";
}

}  // namespace

void serve_commands(Runner& runner, const WorkerLimits& limits, std::istream& in, std::ostream& out) {
  // Blocks of their own: what one has computed stays valid while the other runs. A perplexity overwrites both, but a
  // decode after it measures the same work whatever the context holds.
  Workload single(runner, 1, limits.context_tokens, limits.step_tokens_max, 0);
  Workload batch(runner, limits.sequences, limits.batch_tokens, limits.step_tokens_max, single.blocks());
  const CeilingProbe probe(limits.threads);
  for (std::string line; std::getline(in, line);) {
    try {
      out << answer(runner, single, batch, probe, line) << std::endl;
    } catch (const std::exception& error) {
      out << error_json(error.what()) << std::endl;
    }
  }
}

}  // namespace penstock::bench
