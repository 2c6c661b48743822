// What llama2.c says to five prompts on stories260K: fixtures/stories260K.greedy.jsonl.
#pragma once

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "test_files.h"

namespace penstock::testing {

struct StoryGolden {
  std::vector<int32_t> prompt_ids;
  std::vector<std::pair<int32_t, float>> top;
  std::vector<int32_t> greedy_ids;
};

// The numbers behind a key of one line; the fixture's lines hold nothing but flat and once-nested lists of numbers.
inline std::vector<double> numbers(const std::string& line, const std::string& key) {
  const size_t start = line.find('[', line.find("\"" + key + "\":"));
  int depth = 0;
  size_t end = start;
  do {
    depth += line[end] == '[' ? 1 : line[end] == ']' ? -1 : 0;
    ++end;
  } while (depth > 0);
  const std::string list = line.substr(start, end - start);
  std::vector<double> found;
  const char* at = list.c_str();
  while (*at != '\0') {
    char* end_of_number = nullptr;
    const double value = std::strtod(at, &end_of_number);
    if (end_of_number != at) found.push_back(value);
    at = end_of_number != at ? end_of_number : at + 1;
  }
  return found;
}

inline std::vector<StoryGolden> goldens() {
  const auto bytes = read_file(fixture("stories260K.greedy.jsonl"));
  const std::string text(bytes.begin(), bytes.end());
  std::vector<StoryGolden> all;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('\n', start), text.size());
    const std::string line = text.substr(start, end - start);
    start = end + 1;
    if (line.empty()) continue;
    StoryGolden golden;
    for (double id : numbers(line, "prompt_ids")) golden.prompt_ids.push_back(static_cast<int32_t>(id));
    for (double id : numbers(line, "greedy_ids")) golden.greedy_ids.push_back(static_cast<int32_t>(id));
    const auto top = numbers(line, "first_logits_top5");
    for (size_t i = 0; i + 1 < top.size(); i += 2)
      golden.top.emplace_back(static_cast<int32_t>(top[i]), static_cast<float>(top[i + 1]));
    all.push_back(golden);
  }
  return all;
}

}  // namespace penstock::testing
