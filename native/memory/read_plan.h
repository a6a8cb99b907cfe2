#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace weightcast {

struct FileRange {
  uint64_t file_offset;
  uint64_t destination_offset;
  uint64_t bytes;

  uint64_t file_end() const { return file_offset + bytes; }
};

/// One read of a file, and what of it is wanted.
struct ReadRequest {
  uint64_t begin;
  uint64_t end;
  /// Of ReadPlan::parts(), in the order of the file. They may overlap, and have gaps.
  size_t first_part;
  size_t parts;
};

/// Ranges of a file as reads that are long enough for its storage: ranges that are near each other in the file are read in
/// one go. No read crosses a multiple of kMostBytes, so that none is longer even with both ends moved to the next multiple
/// of a block.
class ReadPlan {
 public:
  static constexpr uint64_t kMostBytes = uint64_t{4} << 20;

  explicit ReadPlan(const std::vector<FileRange>& ranges);

  const std::vector<ReadRequest>& requests() const { return requests_; }
  /// The ranges, cut at multiples of kMostBytes, without empty ones.
  const std::vector<FileRange>& parts() const { return parts_; }

 private:
  std::vector<FileRange> parts_;
  std::vector<ReadRequest> requests_;
};

}  // namespace weightcast
