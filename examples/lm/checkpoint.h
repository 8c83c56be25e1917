// SPDX-License-Identifier: Apache-2.0
// Language-model example, files: a model to generate from, and a run to resume.
#ifndef KLA_EXAMPLES_LM_CHECKPOINT_H_
#define KLA_EXAMPLES_LM_CHECKPOINT_H_

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "examples/lm/adamw.h"
#include "examples/lm/safetensors.h"
#include "examples/lm/settings.h"
#include "examples/lm/tensor_list.h"
#include "examples/lm/text_corpus.h"

namespace lm {

// Both are safetensors files whose metadata holds the settings as JSON.
//   model  the weights, by their names in the model
//   run    the weights as model.*, AdamW's moments as first.* and second.*; the number of steps
//          made, and a fingerprint of the training text. Batches are a function of seed and step,
//          so nothing else decides how the run goes on.
inline constexpr const char* kModelFormat = "kla-lm-model-1";
inline constexpr const char* kRunFormat = "kla-lm-run-1";

// FNV-1a, 64 bits, over names, lengths and bytes: tells another text from the same.
inline std::string Fingerprint(const std::vector<Document>& documents) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  const auto mix = [&](const std::string& bytes) {
    for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  };
  for (const Document& document : documents) {
    mix(document.name + "\n" + std::to_string(document.bytes.size()) + "\n");
    mix(document.bytes);
  }
  return std::to_string(hash);
}

// The settings in a file of the given format; any other content is a FileError.
inline Settings ReadSettings(const SafetensorsFile& file, const std::filesystem::path& path,
                             const std::string& format) {
  if (file.Require("format") != format) {
    throw FileError(path,
                    "its format is '" + file.Require("format") + "', expected '" + format + "'");
  }
  try {
    const Settings settings = nlohmann::json::parse(file.Require("settings")).get<Settings>();
    settings.Check();
    return settings;
  } catch (const nlohmann::json::exception& error) {
    throw FileError(path, std::string("bad settings: ") + error.what());
  } catch (const std::invalid_argument& error) {
    throw FileError(path, std::string("bad ") + error.what());
  }
}

// The same, for a model that is yet to be built: its settings must not ask for more than is there.
inline Settings ReadSettings(const std::filesystem::path& path, const std::string& format) {
  const SafetensorsFile file(path);
  const Settings settings = ReadSettings(file, path, format);
  const auto needed = static_cast<std::uint64_t>(settings.FewestParameters()) * sizeof(float);
  if (needed > file.data_bytes()) {
    throw FileError(path, "its settings describe a larger model than the one it holds");
  }
  return settings;
}

template <class Model>
void SaveModel(const std::filesystem::path& path, Model& model, const Settings& settings) {
  SaveSafetensors(path, model.Tensors(),
                  {{"format", kModelFormat}, {"settings", nlohmann::json(settings).dump()}});
}

template <class Model>
void LoadModel(const std::filesystem::path& path, Model& model) {
  SafetensorsFile file(path);
  ReadSettings(file, path, kModelFormat);
  file.ReadAll(model.Tensors());
}

// Weights and moments as one list.
template <class T>
TensorList<T> RunTensors(AdamW<T>& optimizer) {
  TensorList<T> list;
  const TensorList<T>& parameters = optimizer.parameters();
  for (const TensorRef<T>& tensor : parameters) {
    list.push_back({"model." + tensor.name, tensor.shape, tensor.values});
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    list.push_back(
        {"first." + parameters[i].name, parameters[i].shape, optimizer.first_moment()[i]});
    list.push_back(
        {"second." + parameters[i].name, parameters[i].shape, optimizer.second_moment()[i]});
  }
  return list;
}

// Weights, moments and number of steps. The metadata tells whose they are.
template <class T>
void SaveOptimizer(const std::filesystem::path& path, AdamW<T>& optimizer, Metadata metadata) {
  metadata["step"] = std::to_string(optimizer.step());
  SaveSafetensors(path, RunTensors(optimizer), metadata);
}

// Puts them back into an optimiser over the same parameters.
template <class T>
void LoadOptimizer(SafetensorsFile& file, const std::filesystem::path& path, AdamW<T>& optimizer) {
  const std::string& digits = file.Require("step");
  std::int64_t step = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc() || end != digits.data() + digits.size() || step < 0) {
    throw FileError(path, "bad step '" + digits + "'");
  }
  file.ReadAll(RunTensors(optimizer));
  optimizer.set_step(step);
}

template <class T>
void SaveRun(const std::filesystem::path& path, AdamW<T>& optimizer, const Settings& settings,
             const std::string& text_fingerprint) {
  SaveOptimizer(path, optimizer,
                {{"format", kRunFormat},
                 {"settings", nlohmann::json(settings).dump()},
                 {"text", text_fingerprint}});
}

// The same for an optimiser whose model was built from the settings in the file.
template <class T>
void LoadRun(const std::filesystem::path& path, AdamW<T>& optimizer,
             const std::string& text_fingerprint) {
  SafetensorsFile file(path);
  ReadSettings(file, path, kRunFormat);
  if (file.Require("text") != text_fingerprint) {
    throw FileError(path, "was trained on another text; give the same --text to resume");
  }
  LoadOptimizer(file, path, optimizer);
}

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_CHECKPOINT_H_
