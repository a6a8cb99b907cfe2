#include "memory/cached_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace weightcast {

CachedPages::CachedPages(int descriptor, uint64_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* const start = mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, descriptor, 0);
  if (start == MAP_FAILED) return;
  start_ = std::shared_ptr<uint8_t>(static_cast<uint8_t*>(start), [bytes](uint8_t* mapped) { munmap(mapped, bytes); });
}

bool CachedPages::Hold(uint64_t offset, uint64_t bytes) const {
  if (start_ == nullptr || bytes == 0 || offset + bytes > bytes_) return false;
  static const auto page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t begin = offset / page_bytes * page_bytes;
  std::vector<uint8_t> pages((offset + bytes - begin + page_bytes - 1) / page_bytes);
  if (mincore(start_.get() + begin, offset + bytes - begin, pages.data()) != 0) return false;
  return std::all_of(pages.begin(), pages.end(), [](uint8_t page) { return (page & 1) != 0; });
}

}  // namespace weightcast
