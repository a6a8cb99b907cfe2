#include "fabric/tcp_carrier.h"

#include <utility>

namespace weightcast {

template <class Action>
void TcpCarrier::ForEachStream(Action action) {
  for (const auto& stream : streams_) stream->loop().Post([stream, action] { action(*stream); });
}

void TcpCarrier::Begin(std::shared_ptr<Read> read, std::shared_ptr<RemoteSegment> segment) {
  read->Begin();
  queue_->Add(std::move(read), std::move(segment));
  ForEachStream([](ReadStream& stream) { stream.Pump(); });
}

void TcpCarrier::Drop(const std::shared_ptr<Read>& read) {
  ForEachStream([read](ReadStream& stream) { stream.Drop(read); });
}

void TcpCarrier::End() {
  ForEachStream([](ReadStream& stream) { stream.End(); });
}

}  // namespace weightcast
