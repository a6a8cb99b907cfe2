#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fabric/acceptor.h"
#include "fabric/control.h"
#include "fabric/exposure.h"
#include "fabric/read.h"
#include "system/base.h"
#include "system/event_loop.h"

namespace weightcast {

/// The reader's side of a stream: takes pieces from the peer's queue, asks for a few ahead of what it receives, and
/// receives straight into the destination. Used on its loop's thread, or after that has stopped.
class ReadStream : public std::enable_shared_from_this<ReadStream> {
 public:
  using Queue = ReadQueue<RemoteSegment>;
  /// Called once, on the loop's thread, if the connection ends without End().
  using OnLost = std::function<void(const std::string& how)>;

  ReadStream(EventLoop& loop, UniqueFd socket, std::string peer, std::shared_ptr<Queue> queue, OnLost on_lost);

  EventLoop& loop() { return loop_; }
  void Start();
  /// The queue has more pieces.
  void Pump();
  /// Discards what arrives for this read from now on.
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

/// Over any network: several streams on which the peer's native threads serve pieces.
class TcpCarrier : public Carrier {
 public:
  using Queue = ReadQueue<RemoteSegment>;

  explicit TcpCarrier(std::shared_ptr<Queue> queue, std::vector<std::shared_ptr<ReadStream>> streams)
      : queue_(std::move(queue)), streams_(std::move(streams)) {}

  const char* kind() const override { return "tcp"; }
  /// Keys for queue pairs that were tried in vain may follow; they are of no use here.
  void Complete(RemoteSegment&, ByteReader&, FrameSocket&) override {}
  void Begin(std::shared_ptr<Read> read, std::shared_ptr<RemoteSegment> segment) override;
  void Drop(const std::shared_ptr<Read>& read) override;
  void End() override;

 private:
  /// Has every stream do something on its own thread.
  template <class Action>
  void ForEachStream(Action action);

  const std::shared_ptr<Queue> queue_;
  const std::vector<std::shared_ptr<ReadStream>> streams_;
};

/// The source's side of a stream: answers requests for pieces in the order they came, straight out of the mapping.
/// Used on its loop's thread; owns itself until the connection ends.
///
/// Without MSG_ZEROCOPY: the kernel would then read the memory after the send has returned, for a retransmission even
/// much later, and the trailer could not vouch for the bytes before it.
class ServedStream : public std::enable_shared_from_this<ServedStream> {
 public:
  static void Start(EventLoop& loop, UniqueFd socket, ConnectionQuota::Slot slot, const ExposureTable& exposures);

 private:
  struct Reply {
    /// Kept while bytes of it are sent; null when the request was refused.
    std::shared_ptr<Exposure> exposure;
    StreamHeader header;
    uint64_t offset;
  };

  ServedStream(EventLoop& loop, UniqueFd socket, ConnectionQuota::Slot slot, const ExposureTable& exposures);
  void OnReady(uint32_t events);
  /// All three are false once the connection has ended.
  bool ReceiveRequests();
  bool SendReplies();
  bool SendPart(const void* bytes, size_t count, bool more_follows);
  Reply ReplyTo(const StreamRequest& request) const;
  void End();

  EventLoop& loop_;
  UniqueFd socket_;
  const ConnectionQuota::Slot slot_;
  const ExposureTable& exposures_;
  EventLoop::Handle watch_;

  uint8_t incoming_[sizeof(StreamRequest)];
  size_t received_ = 0;
  std::deque<Reply> replies_;
  /// Bytes of the first reply that are sent, its header and trailer counted.
  uint64_t sent_ = 0;
  StreamTrailer trailer_{};
  bool blocked_ = false;
};

}  // namespace weightcast
