#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "fabric/carrier.h"
#include "fabric/protocol.h"
#include "system/event_loop.h"
#include "system/unique_fd.h"

namespace weightcast {

/// The reader's side of a stream: takes pieces from the peer's queue, asks for a few ahead of what it receives, and
/// receives straight into the destination. Used on its loop's thread, or after that has stopped.
class ReadStream : public std::enable_shared_from_this<ReadStream> {
 public:
  using Queue = ReadQueue<RemoteSegment>;
  /// Called once, on the loop's thread, if the connection ends by itself.
  using OnLost = std::function<void(const std::string& how)>;

  ReadStream(EventLoop& loop, UniqueFd socket, std::string peer, std::shared_ptr<Queue> queue, OnLost on_lost);

  EventLoop& loop() { return loop_; }
  void Start();
  /// The queue has got more.
  void Pump();
  /// What comes for this read is thrown away from now on.
  void Drop(const std::shared_ptr<Read>& read);
  void End();

 private:
  struct Awaited {
    Queue::Taken taken;
    /// The piece has been released: its bytes go nowhere.
    bool is_dropped = false;
  };

  void OnReady(uint32_t events);
  void SendRequests();
  void Receive();
  /// Receives the rest of a structure. True when it is whole.
  template <class Structure>
  bool ReceiveStructure(Structure& structure);
  /// Receives data of the first piece. False if nothing came.
  bool ReceiveData();
  /// The number of bytes that came; 0 if there are none now. Throws when the connection has ended.
  size_t ReceiveBytes(void* bytes, size_t count);
  void CheckHeader();
  void Settle(Verdict verdict);
  void Lose(const std::string& how);

  EventLoop& loop_;
  UniqueFd socket_;
  const std::string peer_;
  const std::shared_ptr<Queue> queue_;
  const OnLost on_lost_;
  EventLoop::Handle watch_;

  Bytes outgoing_;
  /// The first is the one whose bytes come next.
  std::deque<Awaited> awaited_;
  enum class Part { kHeader, kData, kTrailer } part_ = Part::kHeader;
  /// Of the part that is being received.
  uint64_t received_ = 0;
  StreamHeader header_{};
  StreamTrailer trailer_{};
  Bytes scratch_;
};

}  // namespace weightcast
