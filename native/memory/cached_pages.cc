#include "memory/cached_pages.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

namespace weightcast {

namespace {

bool IsTold(int descriptor) {
  struct stat found{};
  if (fstat(descriptor, &found) != 0) return false;
  const uid_t user = geteuid();
  if (user == 0 || user == found.st_uid) return true;
  const std::string path = "/proc/self/fd/" + std::to_string(descriptor);
  return faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) == 0;
}

}  // namespace

CachedPages::CachedPages(int descriptor, uint64_t bytes) : bytes_(bytes) {
  if (bytes == 0 || !IsTold(descriptor)) return;
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
