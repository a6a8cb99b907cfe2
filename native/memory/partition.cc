#include "memory/partition.h"

namespace weightcast {
namespace {

constexpr uint64_t kSmallestPiece = uint64_t{256} << 10;
constexpr uint64_t kLargestPiece = uint64_t{4} << 20;
constexpr uint64_t kPage = 4096;

}  // namespace

Partition::Partition(const std::vector<uint64_t>& sizes, unsigned threads) {
  ends_.reserve(sizes.size());
  uint64_t end = 0;
  for (const uint64_t size : sizes) ends_.push_back(end += size);
  const uint64_t wanted = std::clamp(end / (uint64_t{4} * threads), kSmallestPiece, kLargestPiece);
  piece_bytes_ = (wanted + kPage - 1) / kPage * kPage;
  pieces_ = std::max<uint64_t>(1, (end + piece_bytes_ - 1) / piece_bytes_);
}

}  // namespace weightcast
