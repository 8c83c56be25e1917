// SPDX-License-Identifier: Apache-2.0
// tests: a folder for the files of one test, gone when the test ends.
#ifndef KLA_TESTS_EXAMPLES_LM_SCRATCH_FOLDER_H_
#define KLA_TESTS_EXAMPLES_LM_SCRATCH_FOLDER_H_

#include <stdlib.h>

#include <filesystem>
#include <stdexcept>
#include <string>

namespace lm::testing {

class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "kla-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace lm::testing

#endif  // KLA_TESTS_EXAMPLES_LM_SCRATCH_FOLDER_H_
