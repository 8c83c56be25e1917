// SPDX-License-Identifier: Apache-2.0
// Language-model example, yardsticks: what `xz -9` makes of the same bytes.
#ifndef KLA_EXAMPLES_LM_COMPRESSOR_H_
#define KLA_EXAMPLES_LM_COMPRESSOR_H_

#include <stdlib.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "examples/lm/text_corpus.h"

namespace lm {

// Bytes that `xz -9` makes of all documents of all parts, joined; nothing where xz cannot be run.
// The size of {training, validation} less that of {training} is what validation costs a compressor
// that has read the training text.
inline std::optional<std::int64_t> CompressedBytes(
    const std::vector<const std::vector<Document>*>& parts) {
  std::string name = (std::filesystem::temp_directory_path() / "kla-lm-XXXXXX").string();
  const int descriptor = ::mkstemp(name.data());
  if (descriptor < 0) return std::nullopt;
  ::close(descriptor);
  {
    std::ofstream out(name, std::ios::binary);
    for (const std::vector<Document>* part : parts) {
      for (const Document& document : *part) out << document.bytes;
    }
  }
  std::optional<std::int64_t> size;
  const std::string command = "xz -9 --stdout '" + name + "' 2>/dev/null";
  if (std::FILE* pipe = ::popen(command.c_str(), "r")) {
    std::int64_t count = 0;
    std::vector<char> buffer(1 << 16);
    while (const std::size_t got = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
      count += static_cast<std::int64_t>(got);
    }
    if (::pclose(pipe) == 0 && count > 0) size = count;
  }
  std::filesystem::remove(name);
  return size;
}

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_COMPRESSOR_H_
