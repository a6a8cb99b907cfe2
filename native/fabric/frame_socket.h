#pragma once

#include <sys/socket.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "system/bytes.h"
#include "system/event_loop.h"
#include "system/failure.h"
#include "system/unique_fd.h"

namespace weightcast {

/// The control connection of a peer after the handshake: frames of up to 64 KiB both ways, over a Unix socket with
/// descriptors. A frame is its length in four bytes, a byte for its type, and its fields.
///
/// Used on its loop's thread. Whoever owns it is told of frames and of the end, and may destroy it in there.
class FrameSocket {
 public:
  struct Frame {
    uint8_t type;
    Bytes fields;
  };
  using OnFrame = std::function<void(const Frame&)>;
  /// The failure says why, in the system's words, without naming the peer.
  using OnEnd = std::function<void(const Failure&)>;

  FrameSocket(EventLoop& loop, UniqueFd socket) : loop_(loop), socket_(std::move(socket)) {}
  ~FrameSocket() { *alive_ = false; }
  FrameSocket(const FrameSocket&) = delete;
  FrameSocket& operator=(const FrameSocket&) = delete;

  /// Begins to take frames, or hands them to somebody else from now on. What `on_frame` throws ends the connection
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
    /// Copies of what was given.
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

}  // namespace weightcast
