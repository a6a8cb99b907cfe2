#include "memory/reserve.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "memory/progress_counter.h"
#include "system/failure.h"
#include "system/unique_fd.h"

namespace weightcast {
namespace {

/// Whole huge pages. Large, because every call that makes some makes all processors empty their lists of pages.
constexpr uint64_t kPieceBytes = uint64_t{64} << 20;
constexpr uint64_t kHugePage = uint64_t{2} << 20;
/// MADV_POPULATE_WRITE (Linux 5.14) and MADV_COLLAPSE (6.1), which older headers lack.
constexpr int kPopulateWrite = 23;
constexpr int kCollapse = 25;

/// 0 or what went wrong.
int Advise(uint8_t* start, uint64_t bytes, int advice) {
  while (madvise(start, bytes, advice) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

}  // namespace

ReserveJob::ReserveJob(std::shared_ptr<Mapping> mapping, double* progress)
    : mapping_(std::move(mapping)),
      progress_(progress),
      spans_({Span{mapping_->file(), 0, mapping_->bytes(), true}}) {
  mapping_->CheckWritable();
}

size_t ReserveJob::pieces() const { return (mapping_->bytes() + kPieceBytes - 1) / kPieceBytes; }

void ReserveJob::Run(size_t piece) {
  const uint64_t offset = piece * kPieceBytes;
  const uint64_t bytes = std::min(kPieceBytes, mapping_->bytes() - offset);
  if (huge_ && !ReserveHuge(offset, bytes / kHugePage * kHugePage)) huge_ = false;
  ReserveSmall(offset, bytes);
  AddTo(progress_, bytes);
}

bool ReserveJob::ReserveHuge(uint64_t offset, uint64_t bytes) const {
  if (bytes == 0) return true;
  uint8_t* const start = mapping_->data() + offset;
  // The kernel makes a huge page of what is there of one, be it a single small page, whatever the file system's own
  // setting is; and the rest of it is zeros.
  for (uint64_t page = 0; page < bytes; page += kHugePage) {
    if (Advise(start + page, 1, kPopulateWrite) != 0) return false;
  }
  return Advise(start, bytes, kCollapse) == 0;
}

void ReserveJob::ReserveSmall(uint64_t offset, uint64_t bytes) const {
  const int error = Advise(mapping_->data() + offset, bytes, kPopulateWrite);
  if (error == 0) return;
  if (error == EINVAL) return ReserveInFile(offset, bytes);
  // EFAULT: touching the page would have been a bus error, because the file system has none to give.
  throw ReserveFailure(error == EFAULT ? ENOSPC : error, mapping_->path(), mapping_->bytes());
}

void ReserveJob::ReserveInFile(uint64_t offset, uint64_t bytes) const {
  const UniqueFd file(open(mapping_->path().c_str(), O_RDWR | O_CLOEXEC));
  if (!file) throw Failure::System(errno, "cannot open " + mapping_->path());
  int error = EINTR;
  while (error == EINTR) error = posix_fallocate(file.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes));
  if (error != 0) throw ReserveFailure(error, mapping_->path(), mapping_->bytes());
}

}  // namespace weightcast
