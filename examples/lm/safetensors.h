// SPDX-License-Identifier: Apache-2.0
// Language-model example, files: a small, strict reader and writer of the safetensors format.
#ifndef KLA_EXAMPLES_LM_SAFETENSORS_H_
#define KLA_EXAMPLES_LM_SAFETENSORS_H_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "examples/lm/tensor_list.h"

namespace lm {

// The file: 8 bytes N, little-endian; N bytes of JSON; the tensors' bytes, row-major and
// little-endian, without gaps. The JSON maps each name to {"dtype", "shape", "data_offsets"},
// offsets counting from the end of the JSON, and "__metadata__" to strings.
// Format: the safetensors README, "Format".

static_assert(std::endian::native == std::endian::little,
              "lm: safetensors files are little-endian; swap bytes here for other machines");

// What is wrong with a file, by name. Nothing else is thrown for bad content.
class FileError : public std::runtime_error {
 public:
  FileError(const std::filesystem::path& path, const std::string& what)
      : std::runtime_error(path.string() + ": " + what) {}
};

using Metadata = std::map<std::string, std::string>;

template <class T>
constexpr const char* SafetensorsType() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "lm: weights are saved as float or double");
  return std::is_same_v<T, float> ? "F32" : "F64";
}

// Writes to a neighbouring file first and then renames it, so that an interrupted save leaves the
// earlier file whole.
template <class T>
void SaveSafetensors(const std::filesystem::path& path, const TensorList<T>& tensors,
                     const Metadata& metadata) {
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const TensorRef<T>& tensor : tensors) {
    const std::uint64_t bytes = tensor.values.size() * sizeof(T);
    header[tensor.name] = {{"dtype", SafetensorsType<T>()},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // data start aligned to 8 bytes
  const std::uint64_t length = text.size();
  std::filesystem::path partial = path;
  partial += ".partial";
  {
    std::ofstream out(partial, std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(&length), sizeof(length));
    out.write(text.data(), static_cast<std::streamsize>(text.size()));
    for (const TensorRef<T>& tensor : tensors) {
      out.write(reinterpret_cast<const char*>(tensor.values.data()),
                static_cast<std::streamsize>(tensor.values.size() * sizeof(T)));
    }
    out.close();
    if (!out) throw FileError(partial, "cannot write; is the disk full or the folder missing?");
  }
  std::filesystem::rename(partial, path);
}

// A file whose header has been read and checked as a whole: sizes, types, offsets that cover the
// data exactly once. Tensors are then read one by one.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path) : path_(path) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) throw FileError(path, "no such file");
    in_.open(path, std::ios::binary);
    if (!in_) throw FileError(path, "cannot open for reading");
    const std::uint64_t size = std::filesystem::file_size(path);
    std::uint64_t length = 0;
    if (size < sizeof(length)) throw FileError(path, "too short for a safetensors file");
    ReadBytes(&length, sizeof(length));
    if (length > kLargestHeader || length > size - sizeof(length)) {
      throw FileError(path, "the header claims " + std::to_string(length) + " bytes of a " +
                                std::to_string(size) +
                                "-byte file; truncated, or not a safetensors file");
    }
    std::string text(length, '\0');
    ReadBytes(text.data(), text.size());
    data_begin_ = sizeof(length) + length;
    ParseHeader(text);
    data_bytes_ = size - data_begin_;
    CheckCoverage();
  }

  const Metadata& metadata() const { return metadata_; }
  std::uint64_t data_bytes() const { return data_bytes_; }  // of all tensors

  // The metadata entry, or an error that names it.
  const std::string& Require(const std::string& key) const {
    const auto found = metadata_.find(key);
    if (found == metadata_.end()) throw FileError(path_, "metadata has no entry '" + key + "'");
    return found->second;
  }

  // Reads every listed tensor, checking type and shape first, and insists that the file has no
  // others and that every value is finite. Nothing is written unless the whole header agrees.
  template <class T>
  void ReadAll(const TensorList<T>& tensors) {
    std::set<std::string> wanted;
    for (const TensorRef<T>& tensor : tensors) {
      CheckEntry(tensor);
      wanted.insert(tensor.name);
    }
    for (const auto& [name, entry] : entries_) {
      if (!wanted.contains(name)) throw FileError(path_, "unexpected tensor '" + name + "'");
    }
    for (const TensorRef<T>& tensor : tensors) {
      in_.seekg(static_cast<std::streamoff>(data_begin_ + entries_.at(tensor.name).begin));
      ReadBytes(tensor.values.data(), tensor.values.size_bytes());
      for (const T value : tensor.values) {
        if (!std::isfinite(value)) {
          throw FileError(path_, "tensor '" + tensor.name + "' holds values that are not finite");
        }
      }
    }
  }

 private:
  static constexpr std::uint64_t kLargestHeader = 100'000'000;  // as in the reference reader

  struct Entry {
    std::string type;
    std::vector<std::int64_t> shape;
    std::uint64_t begin = 0, end = 0;  // bytes, from data_begin_
  };

  void ReadBytes(void* to, std::size_t count) {
    in_.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
    if (!in_) throw FileError(path_, "truncated");
  }

  static std::uint64_t ElementBytes(const std::string& type) {
    static const std::map<std::string, std::uint64_t> kBytes = {
        {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"I16", 2}, {"U16", 2}, {"F16", 2}, {"BF16", 2},
        {"I32", 4},  {"U32", 4}, {"F32", 4}, {"F64", 8}, {"I64", 8}, {"U64", 8}};
    const auto found = kBytes.find(type);
    return found == kBytes.end() ? 0 : found->second;
  }

  void ParseHeader(const std::string& text) {
    if (text.empty() || text[0] != '{') throw FileError(path_, "the header is not a JSON object");
    // The parser keeps the last of two equal keys; the format forbids them, so look while parsing.
    std::set<std::string> names;
    std::string repeated;
    const auto watch = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
      if (event == nlohmann::json::parse_event_t::key && depth == 1 &&
          !names.insert(value.get<std::string>()).second) {
        repeated = value.get<std::string>();
      }
      return true;
    };
    const nlohmann::json header = nlohmann::json::parse(text, watch, /*allow_exceptions=*/false);
    if (!header.is_object()) throw FileError(path_, "the header is not valid JSON");
    if (!repeated.empty()) throw FileError(path_, "tensor '" + repeated + "' is listed twice");
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") {
        ParseMetadata(value);
      } else {
        entries_.emplace(name, ParseEntry(name, value));
      }
    }
  }

  void ParseMetadata(const nlohmann::json& value) {
    if (!value.is_object()) throw FileError(path_, "__metadata__ is not a JSON object");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) throw FileError(path_, "metadata '" + key + "' is not a string");
      metadata_.emplace(key, text.get<std::string>());
    }
  }

  Entry ParseEntry(const std::string& name, const nlohmann::json& value) const {
    const auto fail = [&](const std::string& what) {
      return FileError(path_, "tensor '" + name + "' " + what);
    };
    if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") ||
        !value.contains("data_offsets")) {
      throw fail("lacks dtype, shape or data_offsets");
    }
    const nlohmann::json &type = value["dtype"], &shape = value["shape"];
    const nlohmann::json& offsets = value["data_offsets"];
    Entry entry;
    if (!type.is_string() || ElementBytes(type.get<std::string>()) == 0) {
      throw fail("has an unknown dtype");
    }
    entry.type = type.get<std::string>();
    if (!shape.is_array()) throw fail("has a shape that is not an array");
    std::uint64_t bytes = ElementBytes(entry.type);
    for (const nlohmann::json& extent : shape) {
      if (!extent.is_number_unsigned()) throw fail("has a shape of other than whole numbers");
      const auto size = extent.get<std::uint64_t>();
      if (size != 0 && bytes > std::numeric_limits<std::int64_t>::max() / size) {
        throw fail("has a shape too large to address");
      }
      bytes *= size;
      entry.shape.push_back(static_cast<std::int64_t>(size));
    }
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
        !offsets[1].is_number_unsigned()) {
      throw fail("has data_offsets other than two whole numbers");
    }
    entry.begin = offsets[0].get<std::uint64_t>();
    entry.end = offsets[1].get<std::uint64_t>();
    if (entry.end < entry.begin || entry.end - entry.begin != bytes) {
      throw fail("has data_offsets that do not agree with its dtype and shape");
    }
    return entry;
  }

  void CheckCoverage() const {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
    for (const auto& [name, entry] : entries_) ranges.emplace_back(entry.begin, entry.end);
    std::sort(ranges.begin(), ranges.end());
    std::uint64_t covered = 0;
    for (const auto& [begin, end] : ranges) {
      if (begin < covered) throw FileError(path_, "tensors overlap");
      if (begin > covered) throw FileError(path_, "there are unused bytes between tensors");
      covered = end;
    }
    if (covered > data_bytes_) throw FileError(path_, "truncated: tensors reach past the end");
    if (covered < data_bytes_) throw FileError(path_, "there are unused bytes after the tensors");
  }

  template <class T>
  void CheckEntry(const TensorRef<T>& tensor) const {
    const auto found = entries_.find(tensor.name);
    if (found == entries_.end()) throw FileError(path_, "no tensor '" + tensor.name + "'");
    const Entry& entry = found->second;
    if (entry.type != SafetensorsType<T>()) {
      throw FileError(path_, "tensor '" + tensor.name + "' is " + entry.type + ", expected " +
                                 SafetensorsType<T>());
    }
    if (entry.shape != tensor.shape) {
      throw FileError(path_, "tensor '" + tensor.name + "' has shape " + Describe(entry.shape) +
                                 ", expected " + Describe(tensor.shape));
    }
  }

  static std::string Describe(const std::vector<std::int64_t>& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
      text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
    }
    return text + "]";
  }

  std::filesystem::path path_;
  std::ifstream in_;
  std::uint64_t data_begin_ = 0, data_bytes_ = 0;
  Metadata metadata_;
  std::map<std::string, Entry> entries_;
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_SAFETENSORS_H_
