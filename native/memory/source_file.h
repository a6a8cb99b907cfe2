#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "memory/cached_pages.h"
#include "system/base.h"

namespace weightcast {

/// A regular file that is read once: past the page cache where its file system can do that (O_DIRECT), so that the host's
/// memory does not hold the bytes twice, and out of the page cache where they are in it already. Safe among threads.
class SourceFile {
 public:
  /// Throws system errors, and EINVAL for what is no regular file.
  explicit SourceFile(std::string path);

  /// When it was opened.
  uint64_t bytes() const { return bytes_; }
  bool IsDirect() const { return direct_works_.load(std::memory_order_relaxed); }
  /// Where direct reads begin and end in the file: multiples of it. A power of two, at most kLargestBlock.
  uint64_t block() const { return block_; }
  /// Where direct reads may put bytes in memory: multiples of it. At most a page.
  uint64_t memory_alignment() const { return memory_alignment_; }

  static constexpr uint64_t kLargestBlock = uint64_t{64} << 10;

  /// Fills `places` one after the other with what stands at `offset`, until at least `needed` bytes are there. Direct if
  /// IsDirect(), and then `offset` and the places are aligned. Throws FILE_ENDED if the file has less.
  void Read(std::vector<iovec> places, uint64_t offset, uint64_t needed);

  /// Whether the page cache has all of the range; false where the kernel does not tell.
  bool IsCached(uint64_t offset, uint64_t bytes) const {
    return cache_is_known_.load(std::memory_order_relaxed) && cached_pages_.Hold(offset, bytes);
  }
  /// Copies a range out of the page cache. False, with anything in the destination, if it does not have all of it after
  /// all, or the file system knows no reads that do not wait: then nothing counts as cached from now on, because such a
  /// read makes the kernel bring what it does not find.
  bool ReadCached(uint8_t* destination, uint64_t offset, uint64_t bytes);
  /// Asks for a range to be read into the page cache, without waiting for it.
  void FetchIntoCache(uint64_t offset, uint64_t bytes) const;
  /// Gives back what the range takes in the page cache.
  void DropFromCache(uint64_t offset, uint64_t bytes) const;

 private:
  void OpenDirect();
  /// `error` 0 is the file's end.
  [[noreturn]] void Fail(int error, uint64_t offset) const;

  const std::string path_;
  UniqueFd file_;
  /// The same file past the page cache; none where that is refused.
  UniqueFd direct_;
  uint64_t bytes_ = 0;
  uint64_t block_ = 4096;
  uint64_t memory_alignment_ = 4096;
  /// Cleared by the first read that the file system refuses although it has opened the file.
  std::atomic<bool> direct_works_{false};
  CachedPages cached_pages_;
  std::atomic<bool> cache_is_known_{true};
};

}  // namespace weightcast
