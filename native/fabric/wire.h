#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

#include "system/bytes.h"
#include "system/failure.h"

namespace weightcast {

/// Messages of the fabric are fields laid end to end, numbers in little-endian order.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the fabric's messages are copied as they lie in memory");

class ByteWriter {
 public:
  template <class Number>
  void Put(Number number) {
    static_assert(std::is_integral_v<Number>);
    PutBytes(&number, sizeof(number));
  }
  template <size_t kCount>
  void Put(const std::array<uint8_t, kCount>& array) {
    PutBytes(array.data(), kCount);
  }
  /// At most 255 bytes, after their number.
  void Put(const std::string& text) {
    const size_t count = text.size() < 255 ? text.size() : 255;
    Put(static_cast<uint8_t>(count));
    PutBytes(text.data(), count);
  }

  Bytes Take() { return std::move(bytes_); }

 private:
  void PutBytes(const void* bytes, size_t count) {
    const auto* const first = static_cast<const uint8_t*>(bytes);
    bytes_.insert(bytes_.end(), first, first + count);
  }
  Bytes bytes_;
};

/// Throws EPROTO for a message that ends early.
class ByteReader {
 public:
  ByteReader(const uint8_t* bytes, size_t count) : at_(bytes), end_(bytes + count) {}
  explicit ByteReader(const Bytes& bytes) : ByteReader(bytes.data(), bytes.size()) {}

  template <class Number>
  Number Get() {
    static_assert(std::is_integral_v<Number>);
    Number number;
    std::memcpy(&number, Take(sizeof(number)), sizeof(number));
    return number;
  }
  template <size_t kCount>
  std::array<uint8_t, kCount> GetArray() {
    std::array<uint8_t, kCount> array;
    std::memcpy(array.data(), Take(kCount), kCount);
    return array;
  }
  std::string GetText() {
    const auto count = Get<uint8_t>();
    return std::string(reinterpret_cast<const char*>(Take(count)), count);
  }
  /// Throws EPROTO if something is left.
  void ExpectEnd() const {
    if (at_ != end_) throw Failure("EPROTO", "a message of the fabric is longer than its fields");
  }

 private:
  const uint8_t* Take(size_t count) {
    if (static_cast<size_t>(end_ - at_) < count) {
      throw Failure("EPROTO", "a message of the fabric is shorter than its fields");
    }
    return std::exchange(at_, at_ + count);
  }
  const uint8_t* at_;
  const uint8_t* const end_;
};

}  // namespace weightcast
