#include "memory/read_plan.h"

#include <algorithm>

namespace weightcast {
namespace {

/// What lies between two ranges is read in less time than another read would take to begin.
constexpr uint64_t kLargestGap = uint64_t{128} << 10;

void AppendCut(std::vector<FileRange>& parts, FileRange range) {
  while (range.bytes > 0) {
    const uint64_t bytes = std::min(range.bytes, ReadPlan::kMostBytes - range.file_offset % ReadPlan::kMostBytes);
    parts.push_back({range.file_offset, range.destination_offset, bytes});
    range.file_offset += bytes;
    range.destination_offset += bytes;
    range.bytes -= bytes;
  }
}

bool Joins(const ReadRequest& request, const FileRange& part) {
  return request.begin / ReadPlan::kMostBytes == part.file_offset / ReadPlan::kMostBytes &&
         part.file_offset <= request.end + kLargestGap;
}

}  // namespace

ReadPlan::ReadPlan(const std::vector<FileRange>& ranges) {
  for (const FileRange& range : ranges) AppendCut(parts_, range);
  std::stable_sort(parts_.begin(), parts_.end(), [](const FileRange& left, const FileRange& right) {
    return left.file_offset < right.file_offset;
  });
  for (size_t index = 0; index < parts_.size(); index++) {
    const FileRange& part = parts_[index];
    if (requests_.empty() || !Joins(requests_.back(), part)) {
      requests_.push_back({part.file_offset, part.file_end(), index, 1});
      continue;
    }
    requests_.back().end = std::max(requests_.back().end, part.file_end());
    requests_.back().parts++;
  }
}

}  // namespace weightcast
