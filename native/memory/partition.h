#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace weightcast {

/// Cuts items of known sizes, laid end to end, into pieces of equal bytes. A large item is spread over many pieces
/// and a piece holds many small items, so that neither costs the threads more than its bytes.
class Partition {
 public:
  /// Aims at four pieces a thread within 256 KiB and 4 MiB each.
  Partition(const std::vector<uint64_t>& sizes, unsigned threads);

  /// At least one, which may be empty.
  size_t pieces() const { return pieces_; }
  uint64_t total() const { return ends_.empty() ? 0 : ends_.back(); }

  /// Calls visit(item, offset in the item, bytes), in order, for what belongs to the piece.
  template <class Visit>
  void ForEachItem(size_t piece, Visit visit) const {
    uint64_t position = piece * piece_bytes_;
    const uint64_t end = std::min(total(), position + piece_bytes_);
    size_t item = std::upper_bound(ends_.begin(), ends_.end(), position) - ends_.begin();
    for (; position < end; item++) {
      const uint64_t start = item == 0 ? 0 : ends_[item - 1];
      const uint64_t bytes = std::min(end, ends_[item]) - position;
      if (bytes > 0) visit(item, position - start, bytes);
      position += bytes;
    }
  }

 private:
  /// Where each item ends when they are laid end to end.
  std::vector<uint64_t> ends_;
  uint64_t piece_bytes_;
  size_t pieces_;
};

}  // namespace weightcast
