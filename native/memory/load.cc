#include "memory/load.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "memory/progress_counter.h"
#include "system/failure.h"

namespace weightcast {
namespace {

std::vector<uint64_t> SizesOf(const std::vector<FileRange>& ranges) {
  std::vector<uint64_t> sizes;
  sizes.reserve(ranges.size());
  for (const FileRange& range : ranges) sizes.push_back(range.bytes);
  return sizes;
}

}  // namespace

LoadJob::LoadJob(std::string path, std::shared_ptr<Mapping> destination, std::vector<FileRange> ranges,
                 double* progress, unsigned threads)
    : path_(std::move(path)),
      destination_(std::move(destination)),
      ranges_(std::move(ranges)),
      progress_(progress),
      partition_(SizesOf(ranges_), threads) {
  destination_->CheckWritable();
  Span written{destination_->file(), UINT64_MAX, 0, true};
  for (const FileRange& range : ranges_) {
    destination_->CheckRange(range.destination_offset, range.bytes);
    if (range.bytes == 0) continue;
    written.begin = std::min(written.begin, range.destination_offset);
    written.end = std::max(written.end, range.destination_offset + range.bytes);
  }
  spans_ = {written};
}

void LoadJob::Run(size_t piece) {
  EnsureOpen();
  partition_.ForEachItem(piece, [this](size_t item, uint64_t offset, uint64_t bytes) {
    const FileRange& range = ranges_[item];
    Read(range.file_offset + offset, destination_->data() + range.destination_offset + offset, bytes);
  });
}

void LoadJob::EnsureOpen() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (file_) return;
  // O_NONBLOCK: opening a FIFO must not wait for its other end.
  UniqueFd file(open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) throw Failure::System(errno, "cannot open " + path_);
  struct stat found{};
  if (fstat(file.get(), &found) != 0) throw Failure::System(errno, "cannot examine " + path_);
  if (!S_ISREG(found.st_mode)) throw Failure("EINVAL", "cannot load " + path_ + ": not a regular file");
  const auto size = static_cast<uint64_t>(found.st_size);
  for (const FileRange& range : ranges_) {
    if (range.bytes == 0 || range.file_offset + range.bytes <= size) continue;
    throw Failure(code::kFileEnded, path_ + " has " + std::to_string(size) + " bytes, but the bytes " +
                                        std::to_string(range.file_offset) + " to " +
                                        std::to_string(range.file_offset + range.bytes) + " are asked for");
  }
  posix_fadvise(file.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  file_ = std::move(file);
}

void LoadJob::Fail(int error, uint64_t file_offset) const {
  const std::string place = path_ + " at offset " + std::to_string(file_offset);
  if (error == 0) throw Failure(code::kFileEnded, "file ended early: " + place);
  throw Failure::System(error, "cannot read " + place);
}

void LoadJob::Read(uint64_t file_offset, uint8_t* destination, uint64_t bytes) {
  while (bytes > 0) {
    const ssize_t count = pread(file_.get(), destination, bytes, static_cast<off_t>(file_offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) Fail(count == 0 ? 0 : errno, file_offset);
    const auto read = static_cast<uint64_t>(count);
    AddTo(progress_, read);
    file_offset += read;
    destination += read;
    bytes -= read;
  }
}

}  // namespace weightcast
