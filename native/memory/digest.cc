#include "memory/digest.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "memory/mapped_access.h"
#include "memory/thread_pool.h"

namespace weightcast {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are read as the machine reads them");

constexpr uint64_t kSalt = 0x5745494748544341;

uint64_t Multiplier(uint64_t index) {
  uint64_t z = index + 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return (z ^ (z >> 31)) | 1;
}

/// Sum over whole words, the first of which is word `index` of its tensor. `data` need not be aligned.
uint64_t DigestWords(const uint8_t* data, uint64_t words, uint64_t index) {
  uint64_t sum = 0;
  for (uint64_t k = 0; k < words; k++) {
    uint64_t word;
    std::memcpy(&word, data + 8 * k, sizeof(word));
    sum += (word ^ kSalt) * Multiplier(index + k);
  }
  return sum;
}

#if defined(__x86_64__)
#define WEIGHTCAST_AVX512 __attribute__((target("avx512f,avx512dq")))

/// As DigestWords, eight words at a time with the 64-bit multiplication that AVX-512DQ has: as fast as memory, where
/// the plain loop reaches a quarter of that. Chosen at run time, so the build needs no flags.
WEIGHTCAST_AVX512 uint64_t DigestWordsAvx512(const uint8_t* data, uint64_t words, uint64_t index) {
  using Lanes = uint64_t __attribute__((vector_size(64)));
  Lanes indices = Lanes{0, 1, 2, 3, 4, 5, 6, 7} + index;
  Lanes sums = {};
  uint64_t k = 0;
  for (; k + 8 <= words; k += 8) {
    Lanes lanes;
    std::memcpy(&lanes, data + 8 * k, sizeof(lanes));
    Lanes z = indices + 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    sums += (lanes ^ kSalt) * ((z ^ (z >> 31)) | 1);
    indices += 8;
  }
  uint64_t sum = DigestWords(data + 8 * k, words - k, index + k);
  for (int lane = 0; lane < 8; lane++) sum += sums[lane];
  return sum;
}

using WordsDigest = uint64_t (*)(const uint8_t*, uint64_t, uint64_t);

WordsDigest FastestDigestWords() {
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
  return has_avx512 ? DigestWordsAvx512 : DigestWords;
}

uint64_t FastDigestWords(const uint8_t* data, uint64_t words, uint64_t index) {
  static const WordsDigest digest_words = FastestDigestWords();
  return digest_words(data, words, index);
}
#else
uint64_t FastDigestWords(const uint8_t* data, uint64_t words, uint64_t index) {
  return DigestWords(data, words, index);
}
#endif

/// Sum over bytes `first` to `first + count` of word `index`; count below 8. `data` null means zero bytes.
uint64_t DigestPartOfWord(const uint8_t* data, uint64_t first, uint64_t count, uint64_t index) {
  uint64_t word = 0;
  if (data != nullptr) std::memcpy(&word, data, count);
  const uint64_t mask = (uint64_t{1} << (8 * count)) - 1;
  return (((word ^ (kSalt >> (8 * first))) & mask) << (8 * first)) * Multiplier(index);
}

/// Rows that are a run both in the mapping and in the tensor become one row.
std::vector<TensorPart> Straighten(std::vector<TensorPart> parts) {
  for (TensorPart& part : parts) {
    if (!part.InMapping().IsRun() || !part.InTensor().IsRun() || part.rows == 0) continue;
    part.row_bytes *= part.rows;
    part.rows = 1;
  }
  return parts;
}

std::vector<uint64_t> SizesOf(const std::vector<TensorPart>& parts) {
  std::vector<uint64_t> sizes;
  sizes.reserve(parts.size());
  for (const TensorPart& part : parts) sizes.push_back(part.row_bytes * part.rows);
  return sizes;
}

}  // namespace

uint64_t DigestBytes(const uint8_t* data, uint64_t bytes, uint64_t position) {
  uint64_t sum = 0;
  if (const uint64_t first = position % 8; first != 0) {
    const uint64_t count = std::min(8 - first, bytes);
    sum += DigestPartOfWord(data, first, count, position / 8);
    data += count;
    position += count;
    bytes -= count;
  }
  sum += FastDigestWords(data, bytes / 8, position / 8);
  const uint64_t rest = bytes % 8;
  if (rest > 0) sum += DigestPartOfWord(data + bytes - rest, 0, rest, (position + bytes) / 8);
  return sum;
}

uint64_t DigestPadding(uint64_t tensor_bytes) {
  const uint64_t last = tensor_bytes % 8;
  return last == 0 ? 0 : DigestPartOfWord(nullptr, last, 8 - last, tensor_bytes / 8);
}

std::vector<TensorPart> CheckedParts(std::vector<TensorPart> parts, uint64_t bytes) {
  for (size_t number = 0; number < parts.size(); number++) {
    CheckRectangle(parts[number].InMapping(), bytes, "the place in memory", number);
    CheckRectangle(parts[number].InTensor(), parts[number].tensor_bytes, "the place in the tensor", number);
  }
  return Straighten(std::move(parts));
}

uint64_t DigestStart(const TensorPart& part) {
  const bool has_last_byte = part.InMapping().bytes() > 0 && part.InTensor().end() == part.tensor_bytes;
  return has_last_byte ? DigestPadding(part.tensor_bytes) : 0;
}

DigestJob::DigestJob(std::shared_ptr<Mapping> mapping, std::vector<TensorPart> parts, double* progress,
                     unsigned threads)
    : mapping_(std::move(mapping)),
      parts_(CheckedParts(std::move(parts), mapping_->bytes())),
      progress_(progress),
      partition_(SizesOf(parts_), threads),
      digests_(parts_.size()) {
  Span read{mapping_->file(), UINT64_MAX, 0, false};
  for (size_t number = 0; number < parts_.size(); number++) {
    const TensorPart& part = parts_[number];
    digests_[number] = DigestStart(part);
    if (part.InMapping().bytes() == 0) continue;
    read.begin = std::min(read.begin, part.offset);
    read.end = std::max(read.end, part.InMapping().end());
  }
  spans_ = {read};
}

void DigestJob::Run(size_t piece) {
  const MappedAccess reading(*mapping_);
  partition_.ForEachItem(piece, [this](size_t number, uint64_t offset, uint64_t bytes) {
    const TensorPart& part = parts_[number];
    uint64_t sum = 0;
    ForEachRow(part.row_bytes, offset, bytes, [&](uint64_t row, uint64_t column, uint64_t count) {
      sum += DigestBytes(mapping_->data() + part.offset + row * part.pitch + column, count,
                         part.tensor_offset + row * part.tensor_pitch + column);
    });
    digests_[number].fetch_add(sum, std::memory_order_relaxed);
    AddTo(progress_, bytes);
  });
  reading.Finish();
}

std::vector<uint64_t> DigestJob::Result() const { return {digests_.begin(), digests_.end()}; }

}  // namespace weightcast
