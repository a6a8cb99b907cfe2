#include "memory/load_source.h"

#include <algorithm>
#include <utility>

#include "system/base.h"

namespace weightcast {

LoadSource::LoadSource(std::string path, std::vector<FileRange> ranges)
    : path_(std::move(path)),
      ranges_(std::move(ranges)),
      plan_(ranges_),
      pieces_(std::max<size_t>(1, plan_.requests().size())),
      pieces_left_(pieces_) {}

std::shared_ptr<SourceFile> LoadSource::Open() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (file_) return file_;
  auto file = std::make_shared<SourceFile>(path_);
  CheckSize(*file);
  file_ = std::move(file);
  return file_;
}

void LoadSource::EndPiece() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (--pieces_left_ == 0) file_.reset();
}

void LoadSource::CheckSize(const SourceFile& file) const {
  for (const FileRange& range : ranges_) {
    if (range.bytes == 0 || range.file_end() <= file.bytes()) continue;
    throw Failure(code::kFileEnded, path_ + " has " + std::to_string(file.bytes()) + " bytes, but the bytes " +
                                        std::to_string(range.file_offset) + " to " + std::to_string(range.file_end()) +
                                        " are asked for");
  }
}

}  // namespace weightcast
