#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace weightcast {

/// Where a tensor lies in a mapping.
struct TensorPlace {
  uint64_t offset;
  uint64_t bytes;

  uint64_t end() const { return offset + bytes; }
};

/// Digests of tensors whose bytes come in any order. Safe among threads.
class TensorDigests {
 public:
  /// In the order of their offsets. Throws OUT_OF_RANGE if they are not, or if they overlap.
  explicit TensorDigests(std::vector<TensorPlace> tensors);

  /// Of all tensors.
  uint64_t bytes() const { return bytes_; }
  /// How many bytes of a range belong to tensors.
  uint64_t BytesIn(uint64_t offset, uint64_t bytes) const;

  /// Bytes that have come for `offset` in the mapping, each once. Those that belong to no tensor do not count.
  void Add(uint64_t offset, const uint8_t* data, uint64_t bytes);

  /// One for each tensor, when all its bytes have come.
  std::vector<uint64_t> Result() const { return {digests_.begin(), digests_.end()}; }

 private:
  /// Calls visit(index, begin, end) for the parts of tensors in a range.
  template <class Visit>
  void ForEachPart(uint64_t offset, uint64_t bytes, Visit visit) const;

  const std::vector<TensorPlace> tensors_;
  uint64_t bytes_ = 0;
  /// Sums so far: several threads may be in one tensor.
  std::vector<std::atomic<uint64_t>> digests_;
};

}  // namespace weightcast
