#include "memory/segment_jobs.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "memory/copy.h"
#include "memory/digest.h"
#include "memory/mapped_access.h"
#include "memory/thread_pool.h"
#include "system/base.h"

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

ReserveJob::ReserveJob(std::shared_ptr<Mapping> mapping, uint64_t offset, uint64_t bytes, double* progress)
    : mapping_(std::move(mapping)),
      offset_(offset),
      bytes_(bytes),
      progress_(progress),
      spans_({Span{mapping_->file(), offset, offset + bytes, true}}) {
  mapping_->CheckWritable();
  mapping_->CheckRange(offset, bytes);
}

size_t ReserveJob::pieces() const { return std::max<uint64_t>(1, (bytes_ + kPieceBytes - 1) / kPieceBytes); }

void ReserveJob::Run(size_t piece) {
  const uint64_t done = piece * kPieceBytes;
  const uint64_t offset = offset_ + done;
  const uint64_t bytes = std::min(kPieceBytes, bytes_ - done);
  if (huge_ && (offset % kHugePage != 0 || !ReserveHuge(offset, bytes / kHugePage * kHugePage))) huge_ = false;
  ReserveSmall(offset, bytes);
  AddTo(progress_, bytes);
}

bool ReserveJob::ReserveHuge(uint64_t offset, uint64_t bytes) const {
  if (bytes == 0) return true;
  uint8_t* const start = mapping_->data() + offset;
  // The kernel makes a huge page even of a single small page that is present, whatever the file system's own
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

namespace {

std::vector<uint64_t> SizesOf(const std::vector<TensorWrite>& tensors) {
  std::vector<uint64_t> sizes;
  sizes.reserve(tensors.size());
  for (const TensorWrite& tensor : tensors) sizes.push_back(tensor.bytes);
  return sizes;
}

}  // namespace

WriteJob::WriteJob(std::vector<TensorWrite> tensors, std::shared_ptr<Mapping> destination, double* progress,
                   unsigned threads)
    : tensors_(std::move(tensors)),
      destination_(std::move(destination)),
      progress_(progress),
      partition_(SizesOf(tensors_), threads),
      digests_(tensors_.size()) {
  destination_->CheckWritable();
  Span written{destination_->file(), UINT64_MAX, 0, true};
  for (size_t index = 0; index < tensors_.size(); index++) {
    const TensorWrite& tensor = tensors_[index];
    destination_->CheckRange(tensor.offset, tensor.bytes);
    digests_[index] = DigestPadding(tensor.bytes);
    if (tensor.bytes == 0) continue;
    written.begin = std::min(written.begin, tensor.offset);
    written.end = std::max(written.end, tensor.offset + tensor.bytes);
  }
  spans_ = {written};
}

void WriteJob::Run(size_t piece) {
  const MappedAccess writing(*destination_);
  partition_.ForEachItem(piece, [this](size_t index, uint64_t offset, uint64_t bytes) {
    const TensorWrite& tensor = tensors_[index];
    const uint8_t* const source = tensor.source + offset;
    uint8_t* const destination = destination_->data() + tensor.offset + offset;
    uint64_t sum = 0;
    for (uint64_t done = 0; done < bytes; done += kDigestBlock) {
      const uint64_t block = std::min(kDigestBlock, bytes - done);
      sum += DigestBytes(source + done, block, offset + done);
      StreamCopy(destination + done, source + done, block);
    }
    digests_[index].fetch_add(sum, std::memory_order_relaxed);
    AddTo(progress_, bytes);
  });
  writing.Finish();
}

}  // namespace weightcast
