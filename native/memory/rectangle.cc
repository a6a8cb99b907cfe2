#include "memory/rectangle.h"

#include <string>

#include "system/failure.h"

namespace weightcast {
namespace {

/// False if the rectangle's end does not fit into 64 bits.
bool EndOf(const Rectangle& rectangle, uint64_t* end) {
  uint64_t content;
  if (__builtin_mul_overflow(rectangle.row_bytes, rectangle.rows, &content)) return false;
  *end = rectangle.offset;
  if (content == 0) return true;
  uint64_t before_last_row;
  return !__builtin_mul_overflow(rectangle.rows - 1, rectangle.pitch, &before_last_row) &&
         !__builtin_add_overflow(*end, before_last_row, end) &&
         !__builtin_add_overflow(*end, rectangle.row_bytes, end);
}

}  // namespace

void CheckRectangle(const Rectangle& rectangle, uint64_t size, const char* what, size_t number) {
  uint64_t end;
  const bool inside = EndOf(rectangle, &end) && end <= size;
  const bool apart = rectangle.rows <= 1 || rectangle.pitch >= rectangle.row_bytes;
  if (inside && apart) return;
  const std::string name = std::string(what) + " of rectangle " + std::to_string(number) + " (offset " +
                           std::to_string(rectangle.offset) + ", " + std::to_string(rectangle.rows) + " rows of " +
                           std::to_string(rectangle.row_bytes) + " bytes, pitch " +
                           std::to_string(rectangle.pitch) + ")";
  if (!apart) throw Failure(code::kOutOfRange, name + " has a pitch smaller than its rows");
  throw Failure(code::kOutOfRange, name + " lies outside " + std::to_string(size) + " bytes");
}

}  // namespace weightcast
