// Formatting and rate limit of log lines. See log.h.
#include "serve/log.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>

namespace penstock {
namespace {

// A storm of errors must not fill a disk or slow the step loop; fifty lines a second are more than anybody reads.
constexpr int kLogLinesPerSecond = 50;
// A model's name comes from a file and a reason may quote it: neither may make a line without end.
constexpr size_t kLogValueBytesMax = 300;

std::atomic<LogLevel> g_level{LogLevel::Info};

std::string_view level_name(LogLevel level) {
  switch (level) {
    case LogLevel::Error:
      return "error";
    case LogLevel::Warn:
      return "warn";
    case LogLevel::Info:
      return "info";
    case LogLevel::Debug:
      return "debug";
  }
  return "error";
}

void append_value(std::string& line, std::string_view value) {
  const std::string_view shown = value.substr(0, kLogValueBytesMax);
  const bool plain = !shown.empty() && std::all_of(shown.begin(), shown.end(),
                                                   [](char c) { return c > ' ' && c != '"' && c != '=' && c != 0x7f; });
  if (plain) {
    line += shown;
    return;
  }
  line += '"';
  for (const char c : shown) line += c == '"' ? '\'' : (static_cast<unsigned char>(c) < ' ' || c == 0x7f) ? ' ' : c;
  line += shown.size() < value.size() ? "…\"" : "\"";
}

}  // namespace

std::optional<LogLevel> log_level_named(std::string_view name) {
  for (const LogLevel level : {LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug})
    if (level_name(level) == name) return level;
  return std::nullopt;
}

void set_log_level(LogLevel level) { g_level = level; }

std::string format_log_line(LogLevel level, std::string_view event, std::initializer_list<LogField> fields,
                            uint64_t suppressed_lines) {
  std::string line = "level=";
  line += level_name(level);
  line += " event=";
  line += event;
  for (const LogField& field : fields) {
    line += ' ';
    line += field.key;
    line += '=';
    append_value(line, field.value);
  }
  if (suppressed_lines > 0) line += " suppressed_lines=" + std::to_string(suppressed_lines);
  line += '\n';
  return line;
}

void log_line(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  if (level > g_level.load(std::memory_order_relaxed)) return;
  static std::mutex mutex;
  static std::chrono::steady_clock::time_point second_start;
  static int lines_in_second = 0;
  static uint64_t suppressed_lines = 0;
  std::lock_guard lock(mutex);
  const auto now = std::chrono::steady_clock::now();
  if (now - second_start >= std::chrono::seconds(1)) {
    second_start = now;
    lines_in_second = 0;
  }
  if (++lines_in_second > kLogLinesPerSecond) {
    ++suppressed_lines;
    return;
  }
  const std::string line = format_log_line(level, event, fields, suppressed_lines);
  suppressed_lines = 0;
  // Whoever reads stderr may be gone; there is nobody left to tell.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace penstock
