// Writes Hugging Face folders for tests: config.json, safetensors files, index. Independent of the readers under test.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace penstock::testing {

class TempFolder {
 public:
  TempFolder() {
    const char* folder = std::getenv("TMPDIR");
    path_ = std::string(folder == nullptr ? "/tmp" : folder) + "/penstock-test-XXXXXX";
    if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("cannot create " + path_);
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
  }
  void write(const std::string& name, const std::vector<uint8_t>& bytes) const {
    write(name, std::string(bytes.begin(), bytes.end()));
  }

 private:
  std::string path_;
};

class SafetensorsWriter {
 public:
  // shape: outermost dimension first.
  SafetensorsWriter& tensor(const std::string& name, const std::string& dtype, const std::vector<uint64_t>& shape,
                            const std::vector<uint8_t>& data) {
    std::string dims;
    for (uint64_t extent : shape) dims.append(dims.empty() ? "" : ",").append(std::to_string(extent));
    std::string json = "{\"dtype\":\"";
    json.append(dtype).append("\",\"shape\":[").append(dims).append("],\"data_offsets\":[");
    json.append(std::to_string(data_.size())).append(",");
    json.append(std::to_string(data_.size() + data.size())).append("]}");
    return entry(name, json, data);
  }
  // Any JSON value as a tensor's description, for wrong ones.
  SafetensorsWriter& entry(const std::string& name, const std::string& json, const std::vector<uint8_t>& data = {}) {
    header_.append(header_.empty() ? "\"" : ",\"").append(name).append("\":").append(json);
    data_.insert(data_.end(), data.begin(), data.end());
    return *this;
  }

  std::vector<uint8_t> build() const {
    std::string header(1, '{');
    header.append(header_).append("}");
    return with_header(header, data_);
  }

  // The header as given, padded with spaces to 8 bytes as writers do.
  static std::vector<uint8_t> with_header(std::string header, const std::vector<uint8_t>& data = {}) {
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t length = header.size();
    std::vector<uint8_t> out(sizeof length + header.size() + data.size());
    std::memcpy(out.data(), &length, sizeof length);
    std::memcpy(out.data() + sizeof length, header.data(), header.size());
    if (!data.empty()) std::memcpy(out.data() + sizeof length + header.size(), data.data(), data.size());
    return out;
  }

 private:
  std::string header_;
  std::vector<uint8_t> data_;
};

}  // namespace penstock::testing
