// SPDX-License-Identifier: Apache-2.0
// tests: the safetensors reader and writer, above all on files that are damaged or foreign.
#include "examples/lm/safetensors.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/examples/lm/scratch_folder.h"

namespace lm::testing {
namespace {

class SafetensorsTest : public ::testing::Test {
 protected:
  SafetensorsTest() : a_{1.5f, -2.0f, 3.0f, 0.0f, -0.0f, 6.0f}, b_{7.0f} {}

  TensorList<float> Tensors() { return {{"a", {2, 3}, a_}, {"b", {1}, b_}}; }

  std::filesystem::path path() const { return folder_.path() / "file.safetensors"; }

  std::string Contents() const {
    std::ifstream in(path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

  void Write(const std::string& bytes) const {
    std::ofstream(path(), std::ios::binary | std::ios::trunc) << bytes;
  }

  // A file with this header, whose length field is right, and this much data.
  void WriteWithHeader(const std::string& header, std::size_t data_bytes = 28) const {
    const std::uint64_t length = header.size();
    std::string bytes(sizeof(length), '\0');
    std::memcpy(bytes.data(), &length, sizeof(length));
    Write(bytes + header + std::string(data_bytes, '\0'));
  }

  // What reading the file complains about; empty if it does not.
  std::string Complaint() {
    try {
      SafetensorsFile(path()).ReadAll(Tensors());
      return "";
    } catch (const FileError& error) {
      return error.what();
    }
  }

  ScratchFolder folder_;
  std::vector<float> a_, b_;
};

TEST_F(SafetensorsTest, RoundTripKeepsBitsAndMetadata) {
  SaveSafetensors(path(), Tensors(), {{"key", "value \"quoted\" \n"}});
  const std::vector<float> a = a_, b = b_;
  a_.assign(6, 9.0f);
  b_.assign(1, 9.0f);
  SafetensorsFile file(path());
  EXPECT_EQ(file.Require("key"), "value \"quoted\" \n");
  file.ReadAll(Tensors());
  EXPECT_EQ(std::memcmp(a.data(), a_.data(), 24), 0);
  EXPECT_EQ(std::memcmp(b.data(), b_.data(), 4), 0);
  EXPECT_FALSE(std::filesystem::exists(path().string() + ".partial"));
}

// The layout, byte for byte, against the format's description.
TEST_F(SafetensorsTest, LayoutIsTheFormats) {
  SaveSafetensors(path(), Tensors(), {});
  const std::string bytes = Contents();
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  ASSERT_EQ(length % 8, 0u);
  ASSERT_EQ(bytes.size(), 8 + length + 28);
  const auto header = nlohmann::json::parse(bytes.substr(8, length));
  EXPECT_EQ(header["a"]["dtype"], "F32");
  EXPECT_EQ(header["a"]["shape"], (std::vector<int>{2, 3}));
  EXPECT_EQ(header["a"]["data_offsets"], (std::vector<int>{0, 24}));
  EXPECT_EQ(header["b"]["data_offsets"], (std::vector<int>{24, 28}));
  EXPECT_EQ(std::memcmp(bytes.data() + 8 + length, a_.data(), 24), 0);
}

TEST_F(SafetensorsTest, EveryTruncationIsAnError) {
  SaveSafetensors(path(), Tensors(), {{"key", "value"}});
  const std::string bytes = Contents();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    Write(bytes.substr(0, size));
    EXPECT_NE(Complaint(), "") << "cut to " << size << " of " << bytes.size() << " bytes";
  }
  Write(bytes + '\0');
  EXPECT_NE(Complaint(), "") << "one byte too many";
}

// Any single damaged byte of length or header is either noticed or harmless (a space for a space);
// it never crashes, and it never changes what is read.
TEST_F(SafetensorsTest, DamagedHeaderBytesNeverCrash) {
  SaveSafetensors(path(), Tensors(), {});
  const std::string bytes = Contents();
  const std::vector<float> a = a_, b = b_;
  std::mt19937_64 random(1);
  std::size_t noticed = 0;
  for (std::size_t i = 0; i + 28 < bytes.size(); ++i) {
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(static_cast<unsigned char>(bytes[i]) ^ (1 + random() % 255));
    Write(damaged);
    if (!Complaint().empty()) {
      ++noticed;
    } else {
      EXPECT_EQ(a_, a) << "byte " << i;
      EXPECT_EQ(b_, b) << "byte " << i;
    }
  }
  EXPECT_GT(noticed, (bytes.size() - 28) / 2);
}

TEST_F(SafetensorsTest, RandomBytesNeverCrash) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 200; ++round) {
    std::string bytes(random() % 200, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    Write(bytes);
    EXPECT_NE(Complaint(), "");
    WriteWithHeader("{" + bytes);
    EXPECT_NE(Complaint(), "");
  }
}

TEST_F(SafetensorsTest, HeaderLengthIsCheckedBeforeMemoryIsTaken) {
  for (const std::uint64_t length :
       {std::numeric_limits<std::uint64_t>::max(), std::uint64_t{1} << 62, std::uint64_t{1} << 32,
        std::uint64_t{100'000'001}}) {
    std::string bytes(sizeof(length), '\0');
    std::memcpy(bytes.data(), &length, sizeof(length));
    Write(bytes + "{}");
    EXPECT_NE(Complaint().find("header claims"), std::string::npos) << Complaint();
  }
}

TEST_F(SafetensorsTest, DeeplyNestedHeaderIsAnError) {
  WriteWithHeader("{\"a\":" + std::string(2'000'000, '['));
  EXPECT_NE(Complaint().find("not valid JSON"), std::string::npos);
}

struct BadHeader {
  const char* name;
  const char* header;
  const char* complaint;
};

class SafetensorsHeaderTest : public SafetensorsTest,
                              public ::testing::WithParamInterface<BadHeader> {};

TEST_P(SafetensorsHeaderTest, IsRefused) {
  WriteWithHeader(GetParam().header);
  EXPECT_NE(Complaint().find(GetParam().complaint), std::string::npos) << Complaint();
}

#define KLA_A R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]})"
#define KLA_B R"("b":{"dtype":"F32","shape":[1],"data_offsets":[24,28]})"

INSTANTIATE_TEST_SUITE_P(
    Headers, SafetensorsHeaderTest,
    ::testing::Values(
        BadHeader{"Empty", "", "not a JSON object"}, BadHeader{"Array", "[]", "not a JSON object"},
        BadHeader{"NotJson", "{\"a\":", "not valid JSON"},
        BadHeader{"NotUtf8", "{\"\xff\xfe\":{}}", "not valid JSON"},
        BadHeader{"MetadataNumber", R"({"__metadata__":{"x":1}})", "metadata 'x' is not a string"},
        BadHeader{"MetadataList", R"({"__metadata__":[]})", "__metadata__ is not"},
        BadHeader{"EntryNotObject", R"({"a":3})", "lacks dtype"},
        BadHeader{"NoOffsets", R"({"a":{"dtype":"F32","shape":[7]}})", "lacks dtype"},
        BadHeader{"UnknownType", R"({"a":{"dtype":"F31","shape":[7],"data_offsets":[0,28]}})",
                  "unknown dtype"},
        BadHeader{"NegativeExtent", R"({"a":{"dtype":"F32","shape":[-7],"data_offsets":[0,28]}})",
                  "whole numbers"},
        BadHeader{"FractionalExtent",
                  R"({"a":{"dtype":"F32","shape":[7.0],"data_offsets":[0,28]}})", "whole numbers"},
        BadHeader{"ShapeOverflow",
                  R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,28]}})",
                  "too large"},
        BadHeader{"OffsetsReversed", R"({"a":{"dtype":"F32","shape":[7],"data_offsets":[28,0]}})",
                  "do not agree"},
        BadHeader{"OffsetsWrongSize", R"({"a":{"dtype":"F32","shape":[7],"data_offsets":[0,24]}})",
                  "do not agree"},
        BadHeader{"OneOffset", R"({"a":{"dtype":"F32","shape":[7],"data_offsets":[28]}})",
                  "two whole numbers"},
        BadHeader{"Overlap",
                  "{" KLA_A R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[20,24]}})",
                  "overlap"},
        BadHeader{"Gap", R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[24,28]}})",
                  "unused bytes between"},
        BadHeader{"Trailing", "{" KLA_A "}", "unused bytes after"},
        BadHeader{"PastEnd",
                  "{" KLA_A R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[24,32]}})",
                  "past the end"},
        BadHeader{"Twice", "{" KLA_A "," KLA_B "," KLA_A "}", "listed twice"},
        BadHeader{"Missing",
                  "{" KLA_A R"(,"c":{"dtype":"F32","shape":[1],"data_offsets":[24,28]}})",
                  "no tensor 'b'"},
        BadHeader{"Unexpected",
                  "{" KLA_A "," KLA_B R"(,"c":{"dtype":"F32","shape":[0],"data_offsets":[28,28]}})",
                  "unexpected tensor 'c'"},
        BadHeader{"WrongType",
                  "{" KLA_A R"(,"b":{"dtype":"I32","shape":[1],"data_offsets":[24,28]}})",
                  "is I32, expected F32"},
        BadHeader{"WrongShape",
                  R"({"a":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},)" KLA_B "}",
                  "has shape [3, 2], expected [2, 3]"}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST_F(SafetensorsTest, NothingIsWrittenWhenTheHeaderDisagrees) {
  const std::vector<float> a = a_;
  WriteWithHeader("{" KLA_A R"(,"c":{"dtype":"F32","shape":[1],"data_offsets":[24,28]}})");
  EXPECT_NE(Complaint(), "");
  EXPECT_EQ(a_, a);
}

TEST_F(SafetensorsTest, ValuesThatAreNotFiniteAreRefused) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    a_[3] = bad;
    SaveSafetensors(path(), Tensors(), {});
    EXPECT_NE(Complaint().find("'a' holds values that are not finite"), std::string::npos);
  }
}

TEST_F(SafetensorsTest, MissingFileFolderAndMetadata) {
  EXPECT_THROW(SafetensorsFile(folder_.path() / "absent"), FileError);
  EXPECT_THROW(SafetensorsFile(folder_.path()), FileError);
  EXPECT_THROW(SaveSafetensors(folder_.path() / "absent" / "x", Tensors(), {}), FileError);
  SaveSafetensors(path(), Tensors(), {});
  EXPECT_THROW(SafetensorsFile(path()).Require("format"), FileError);
}

}  // namespace
}  // namespace lm::testing
