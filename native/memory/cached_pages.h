#pragma once

#include <cstdint>
#include <memory>

namespace weightcast {

/// Which pages of a file are in the page cache. The kernel tells those who own the file or may write it; all others it
/// tells that all are, and so they do not ask.
class CachedPages {
 public:
  /// Of no file: holds nothing.
  CachedPages() = default;
  /// Of an open file of so many bytes.
  CachedPages(int descriptor, uint64_t bytes);

  /// Whether all pages of a range are there. False where it cannot be asked.
  bool Hold(uint64_t offset, uint64_t bytes) const;

 private:
  /// The file, mapped to be asked about, never touched.
  std::shared_ptr<uint8_t> start_;
  uint64_t bytes_ = 0;
};

}  // namespace weightcast
