// Lines on stderr. Owns their shape (logfmt), the level and the rate; what is worth a line is decided where it happens.
// Never a prompt, never a token: only counts and reasons.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

namespace penstock {

enum class LogLevel : uint8_t { Error, Warn, Info, Debug };

// "error", "warn", "info", "debug".
std::optional<LogLevel> log_level_named(std::string_view name);
// Lines above this level are not written. Info until set.
void set_log_level(LogLevel level);

struct LogField {
  LogField(std::string_view key_, std::string_view value_) : key(key_), value(value_) {}
  LogField(std::string_view key_, const char* value_) : key(key_), value(value_) {}
  template <typename T>
    requires std::is_arithmetic_v<T>
  LogField(std::string_view key_, T value_) : key(key_), value(std::to_string(value_)) {}

  std::string_view key;
  std::string value;
};

// Writes `level=info event=NAME key=value …` as one write. At most kLogLinesPerSecond lines a second are written; how
// many were not is said in the next line that is. Safe from any thread, not from signal handlers.
void log_line(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});

// One line as log_line() writes it, newline included: quoted where needed, control characters replaced, length bounded.
std::string format_log_line(LogLevel level, std::string_view event, std::initializer_list<LogField> fields,
                            uint64_t suppressed_lines);

}  // namespace penstock
