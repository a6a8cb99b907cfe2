#include "device/cuda/upload.h"

#include <algorithm>
#include <utility>

#include "device/cuda/pinned_mappings.h"

namespace weightcast::cuda {
namespace {

/// Copies do not overlap, so their order is free.
std::vector<RectangleCopy> Merge(std::vector<RectangleCopy> copies) {
  std::sort(copies.begin(), copies.end(), [](const RectangleCopy& left, const RectangleCopy& right) {
    return left.destination_offset < right.destination_offset;
  });
  std::vector<RectangleCopy> merged;
  for (const RectangleCopy& copy : copies) {
    if (copy.rows == 0 || copy.row_bytes == 0) continue;
    if (!merged.empty()) {
      RectangleCopy& last = merged.back();
      const bool adjacent = last.rows == 1 && copy.rows == 1 &&
                            last.source_offset + last.row_bytes == copy.source_offset &&
                            last.destination_offset + last.row_bytes == copy.destination_offset;
      if (adjacent) {
        last.row_bytes += copy.row_bytes;
        continue;
      }
    }
    merged.push_back(copy);
  }
  return merged;
}

/// The first `rows` rows of a copy, taken off it.
RectangleCopy TakeRows(RectangleCopy& copy, uint64_t rows) {
  RectangleCopy taken = copy;
  taken.rows = rows;
  copy.rows -= rows;
  copy.source_offset += rows * copy.source_pitch;
  copy.destination_offset += rows * copy.destination_pitch;
  return taken;
}

/// Adds a row, in pieces that each lie in one part of a pinned mapping.
void AddRow(std::vector<RectangleCopy>& cut, RectangleCopy row) {
  while (row.row_bytes > 0) {
    RectangleCopy piece = row;
    piece.row_bytes = std::min(row.row_bytes, kPinnedPart - row.source_offset % kPinnedPart);
    cut.push_back(piece);
    row.row_bytes -= piece.row_bytes;
    row.source_offset += piece.row_bytes;
    row.destination_offset += piece.row_bytes;
  }
}

/// The copies, none of which reaches from one part of a pinned mapping into the next.
std::vector<RectangleCopy> CutAtParts(const std::vector<RectangleCopy>& copies) {
  std::vector<RectangleCopy> cut;
  for (RectangleCopy copy : copies) {
    while (copy.rows > 0) {
      const uint64_t left = kPinnedPart - copy.source_offset % kPinnedPart;
      if (copy.rows == 1 || copy.row_bytes > left) {
        AddRow(cut, TakeRows(copy, 1));
        continue;
      }
      // A pitch of 0 is a row that is copied many times.
      const uint64_t fitting = copy.source_pitch == 0 ? copy.rows : (left - copy.row_bytes) / copy.source_pitch + 1;
      cut.push_back(TakeRows(copy, std::min(copy.rows, fitting)));
    }
  }
  return cut;
}

}  // namespace

Upload::Upload(std::vector<SegmentCopies> segments, std::shared_ptr<const DeviceBlock> destination)
    : segments_(std::move(segments)), destination_(std::move(destination)) {
  const PrimaryContext& context = destination_->context();
  int max_pitch = 0;
  context.driver().Check(context.driver().cuDeviceGetAttribute(&max_pitch, kAttributeMaxPitch, context.device()),
                         "cannot ask a device its largest pitch");
  max_pitch_ = static_cast<size_t>(max_pitch);
  for (SegmentCopies& each : segments_) {
    each.rectangles = CutAtParts(
        Merge(CheckedCopies(std::move(each.rectangles), each.segment->bytes(), destination_->bytes())));
    for (const RectangleCopy& copy : each.rectangles) bytes_ += copy.row_bytes * copy.rows;
  }
}

void Upload::Enqueue(Stream stream) const {
  const Driver& driver = destination_->context().driver();
  for (const SegmentCopies& each : segments_) {
    for (const RectangleCopy& copy : each.rectangles) {
      const uint8_t* const source = each.segment->data() + copy.source_offset;
      if (copy.rows > 1) {
        EnqueueRows(source, copy, stream);
        continue;
      }
      const Result result = driver.cuMemcpyHtoDAsync(destination_->pointer() + copy.destination_offset, source,
                                                     copy.row_bytes, stream);
      if (result != kSuccess) throw driver.FailureOf(result, "cannot upload from " + each.segment->path());
    }
  }
}

void Upload::EnqueueRows(const uint8_t* source, const RectangleCopy& copy, Stream stream) const {
  const Driver& driver = destination_->context().driver();
  const DevicePointer destination = destination_->pointer() + copy.destination_offset;
  if (std::max(copy.source_pitch, copy.destination_pitch) <= max_pitch_) {
    Copy2D rows{};
    rows.source_type = kMemoryHost;
    rows.source_host = source;
    rows.source_pitch = copy.source_pitch;
    rows.destination_type = kMemoryDevice;
    rows.destination_device = destination;
    rows.destination_pitch = copy.destination_pitch;
    rows.row_bytes = copy.row_bytes;
    rows.rows = copy.rows;
    driver.Check(driver.cuMemcpy2DAsync(&rows, stream), "cannot upload rows");
    return;
  }
  for (uint64_t row = 0; row < copy.rows; row++) {
    driver.Check(driver.cuMemcpyHtoDAsync(destination + row * copy.destination_pitch,
                                          source + row * copy.source_pitch, copy.row_bytes, stream),
                 "cannot upload a row");
  }
}

}  // namespace weightcast::cuda
