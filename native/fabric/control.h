#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "fabric/exposure.h"
#include "system/base.h"
#include "system/event_loop.h"

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

/// The control connection of a peer after the handshake: frames of up to 64 KiB both ways, over a Unix socket with
/// descriptors. A frame is its length in four bytes, a byte for its type, and its fields.
///
/// Used on its loop's thread. The callbacks for frames and for the end may destroy it.
class FrameSocket {
 public:
  struct Frame {
    uint8_t type;
    Bytes fields;
  };
  using OnFrame = std::function<void(const Frame&)>;
  /// The failure says why, with the system's error text, without naming the peer.
  using OnEnd = std::function<void(const Failure&)>;

  FrameSocket(EventLoop& loop, UniqueFd socket) : loop_(loop), socket_(std::move(socket)) {}
  ~FrameSocket() { *alive_ = false; }
  FrameSocket(const FrameSocket&) = delete;
  FrameSocket& operator=(const FrameSocket&) = delete;

  /// Begins to receive frames, or changes who gets them. What `on_frame` throws ends the connection
  /// like a frame that has no right form.
  void Start(OnFrame on_frame, OnEnd on_end);

  /// Sends a frame, with descriptors over a Unix socket. If the other side takes nothing for long, the connection
  /// ends.
  void Send(uint8_t type, const Bytes& fields, std::vector<int> descriptors = {});
  /// The next descriptor that came in. Throws EPROTO if there is none.
  UniqueFd TakeDescriptor();

 private:
  struct Outgoing {
    Bytes bytes;
    size_t sent = 0;
    /// Duplicates of those to send.
    std::vector<UniqueFd> descriptors;
  };

  void OnReady(uint32_t events);
  void Flush();
  void Receive();
  void KeepDescriptors(msghdr& message);
  void HandleFrames();

  EventLoop& loop_;
  UniqueFd socket_;
  OnFrame on_frame_;
  OnEnd on_end_;
  EventLoop::Handle watch_;
  std::deque<Outgoing> outgoing_;
  Bytes incoming_;
  std::deque<UniqueFd> descriptors_;
  /// Tells OnReady that a handler has destroyed this.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

/// The messages between two fabrics after the handshake.

/// Types of frames on a control connection, with their fields.
namespace frame {
/// Reader: u32 request, Token.
inline constexpr uint8_t kAttach = 1;
/// Source: u32 request, u8 Verdict, u64 bytes. Over a Unix socket the file and the state file come with it. Where
/// lanes are open, u64 address and for each RDMA port of the source its u32 rkey follow.
inline constexpr uint8_t kAttached = 2;
/// Source: Token. The segment can no longer be read.
inline constexpr uint8_t kWithdrawn = 3;
/// Reader: asks for queue pairs; see verbs_carrier.h.
inline constexpr uint8_t kOpenLanes = 4;
/// Source: the other ends of them.
inline constexpr uint8_t kLanesOpen = 5;
}  // namespace frame

enum class Verdict : uint8_t { kGood = 0, kWithdrawn = 1, kOutOfRange = 2, kFull = 3 };

/// What a reader sends on a stream, for each piece that it wants; as it lies in memory.
struct StreamRequest {
  Token token;
  uint64_t offset;
  uint32_t bytes;
  uint32_t reserved;
};
static_assert(sizeof(StreamRequest) == 32, "the form on the wire");

/// What a source answers: this, then (if the verdict is good) the bytes, then a StreamTrailer.
struct StreamHeader {
  uint32_t verdict;
  uint32_t bytes;
};
static_assert(sizeof(StreamHeader) == 8, "the form on the wire");

/// Only now it is known whether the bytes before it are what the segment held while it was exposed.
struct StreamTrailer {
  uint32_t verdict;
};
static_assert(sizeof(StreamTrailer) == 4, "the form on the wire");

/// Bytes of the largest piece that one request may ask for.
inline constexpr uint32_t kLargestPiece = 16 << 20;
/// How many requests a source takes on a stream before the first is answered.
inline constexpr size_t kMostRequests = 64;

}  // namespace weightcast
