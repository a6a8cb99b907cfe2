#include "memory/copy.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "memory/mapped_access.h"
#include "system/base.h"
#include "system/faults.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace weightcast {

#if defined(__x86_64__)
namespace {

/// Below this a copy may well be read again from the cache.
constexpr size_t kLong = size_t{256} << 10;
/// Below this the ends of a row, which are not whole lines, cost more than streaming the rest of it gains.
constexpr size_t kLongRow = 1024;
constexpr size_t kLine = 64;

/// Whole lines to an aligned destination.
void StreamLines(uint8_t* destination, const uint8_t* source, size_t bytes) {
  for (size_t done = 0; done < bytes; done += kLine) {
    const auto* const from = reinterpret_cast<const __m128i*>(source + done);
    auto* const to = reinterpret_cast<__m128i*>(destination + done);
    const __m128i first = _mm_loadu_si128(from);
    const __m128i second = _mm_loadu_si128(from + 1);
    const __m128i third = _mm_loadu_si128(from + 2);
    const __m128i fourth = _mm_loadu_si128(from + 3);
    _mm_stream_si128(to, first);
    _mm_stream_si128(to + 1, second);
    _mm_stream_si128(to + 2, third);
    _mm_stream_si128(to + 3, fourth);
  }
}

/// A line with one load and one store, which is 5 to 10% faster. Chosen at run time, so the build needs no flags.
__attribute__((target("avx512f"))) void StreamLinesAvx512(uint8_t* destination, const uint8_t* source, size_t bytes) {
  for (size_t done = 0; done < bytes; done += kLine) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(destination + done), _mm512_loadu_si512(source + done));
  }
}

using LinesCopy = void (*)(uint8_t*, const uint8_t*, size_t);

LinesCopy FastestStreamLines() { return __builtin_cpu_supports("avx512f") ? StreamLinesAvx512 : StreamLines; }

}  // namespace

void StreamRow(uint8_t* destination, const uint8_t* source, size_t bytes, size_t whole) {
  if (whole < kLong || bytes < kLongRow) {
    std::memcpy(destination, source, bytes);
    return;
  }
  static const LinesCopy stream_lines = FastestStreamLines();
  const size_t head = (kLine - reinterpret_cast<uintptr_t>(destination) % kLine) % kLine;
  const size_t lines = (bytes - head) / kLine * kLine;
  std::memcpy(destination, source, head);
  stream_lines(destination + head, source + head, lines);
  std::memcpy(destination + head + lines, source + head + lines, bytes - head - lines);
}

void StreamFence() { _mm_sfence(); }
#else
void StreamRow(uint8_t* destination, const uint8_t* source, size_t bytes, size_t) {
  std::memcpy(destination, source, bytes);
}

void StreamFence() {}
#endif

void StreamCopy(uint8_t* destination, const uint8_t* source, size_t bytes) {
  StreamRow(destination, source, bytes, bytes);
  StreamFence();
}

namespace {

/// False if the rectangle's end does not fit into 64 bits.
bool EndOf(const Rectangle& rectangle, uint64_t* end) {
  uint64_t content;
  if (__builtin_mul_overflow(rectangle.row_bytes, rectangle.rows, &content)) return false;
  *end = rectangle.offset;
  if (content == 0) return true;
  uint64_t before_last_row;
  return !__builtin_mul_overflow(rectangle.rows - 1, rectangle.pitch, &before_last_row) &&
         !__builtin_add_overflow(*end, before_last_row, end) && !__builtin_add_overflow(*end, rectangle.row_bytes, end);
}

}  // namespace

void CheckRectangle(const Rectangle& rectangle, uint64_t size, const char* what, size_t number) {
  uint64_t end;
  const bool inside = EndOf(rectangle, &end) && end <= size;
  const bool apart = rectangle.rows <= 1 || rectangle.pitch >= rectangle.row_bytes;
  if (inside && apart) return;
  const std::string name = std::string(what) + " of rectangle " + std::to_string(number) + " (offset " +
                           std::to_string(rectangle.offset) + ", " + std::to_string(rectangle.rows) + " rows of " +
                           std::to_string(rectangle.row_bytes) + " bytes, pitch " + std::to_string(rectangle.pitch) +
                           ")";
  if (!apart) throw Failure(code::kOutOfRange, name + " has a pitch smaller than its rows");
  throw Failure(code::kOutOfRange, name + " lies outside " + std::to_string(size) + " bytes");
}

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
  // Uploads to a device of the host are such jobs.
  faults::StrikeOrThrow(faults::Point::kUpload);
  const MappedAccess reading(*source_);
  const MappedAccess writing(*destination_);
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
  reading.Finish();
  writing.Finish();
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
  const MappedAccess writing(*destination_);
  partition_.ForEachItem(piece, [this](size_t, uint64_t offset, uint64_t bytes) {
    StreamCopy(destination_->data() + offset_ + offset, source_ + offset, bytes);
  });
  writing.Finish();
}

}  // namespace weightcast
