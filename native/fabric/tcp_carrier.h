#pragma once

#include <memory>
#include <vector>

#include "fabric/carrier.h"
#include "fabric/read_stream.h"

namespace weightcast {

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

}  // namespace weightcast
