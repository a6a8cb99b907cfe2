#include "memory/copy.h"

#include <algorithm>
#include <utility>

#include "memory/stream_copy.h"

namespace weightcast {
namespace {

/// Rows without gaps on either side become one row: fewer and longer copies.
std::vector<RectangleCopy> Straighten(std::vector<RectangleCopy> rectangles) {
  for (RectangleCopy& each : rectangles) {
    if (!each.Source().IsRun() || !each.Destination().IsRun() || each.rows == 0) continue;
    each.row_bytes *= each.rows;
    each.rows = 1;
  }
  return rectangles;
}

std::vector<uint64_t> SizesOf(const std::vector<RectangleCopy>& rectangles) {
  std::vector<uint64_t> sizes;
  sizes.reserve(rectangles.size());
  for (const RectangleCopy& each : rectangles) sizes.push_back(each.row_bytes * each.rows);
  return sizes;
}

void Include(Span& span, const Rectangle& rectangle) {
  if (rectangle.bytes() == 0) return;
  span.begin = std::min(span.begin, rectangle.offset);
  span.end = std::max(span.end, rectangle.end());
}

}  // namespace

std::vector<RectangleCopy> CheckedCopies(std::vector<RectangleCopy> rectangles, uint64_t source_bytes,
                                         uint64_t destination_bytes) {
  for (size_t number = 0; number < rectangles.size(); number++) {
    CheckRectangle(rectangles[number].Source(), source_bytes, "the source", number);
    CheckRectangle(rectangles[number].Destination(), destination_bytes, "the destination", number);
  }
  return Straighten(std::move(rectangles));
}

CopyJob::CopyJob(std::shared_ptr<Mapping> source, std::shared_ptr<Mapping> destination,
                 std::vector<RectangleCopy> rectangles, unsigned threads)
    : source_(std::move(source)),
      destination_(std::move(destination)),
      rectangles_(CheckedCopies(std::move(rectangles), source_->bytes(), destination_->bytes())),
      partition_(SizesOf(rectangles_), threads) {
  destination_->CheckWritable();
  Span read{source_->file(), UINT64_MAX, 0, false};
  Span written{destination_->file(), UINT64_MAX, 0, true};
  for (const RectangleCopy& each : rectangles_) {
    Include(read, each.Source());
    Include(written, each.Destination());
  }
  spans_ = {read, written};
}

void CopyJob::Run(size_t piece) {
  partition_.ForEachItem(piece, [this](size_t item, uint64_t offset, uint64_t bytes) {
    const RectangleCopy& rectangle = rectangles_[item];
    const uint8_t* const source = source_->data() + rectangle.source_offset;
    uint8_t* const destination = destination_->data() + rectangle.destination_offset;
    const uint64_t whole = rectangle.row_bytes * rectangle.rows;
    ForEachRow(rectangle.row_bytes, offset, bytes, [&](uint64_t row, uint64_t column, uint64_t part) {
      StreamRow(destination + row * rectangle.destination_pitch + column,
                source + row * rectangle.source_pitch + column, part, whole);
    });
  });
  StreamFence();
}

CopyInJob::CopyInJob(const uint8_t* source, uint64_t bytes, std::shared_ptr<Mapping> destination, uint64_t offset,
                     unsigned threads)
    : source_(source),
      destination_(std::move(destination)),
      offset_(offset),
      partition_({bytes}, threads),
      spans_({Span{destination_->file(), offset, offset + bytes, true}}) {
  destination_->CheckRange(offset, bytes);
  destination_->CheckWritable();
}

void CopyInJob::Run(size_t piece) {
  partition_.ForEachItem(piece, [this](size_t, uint64_t offset, uint64_t bytes) {
    StreamCopy(destination_->data() + offset_ + offset, source_ + offset, bytes);
  });
}

}  // namespace weightcast
