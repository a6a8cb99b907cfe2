#pragma once

#include <deque>
#include <memory>

#include "fabric/exposure.h"
#include "fabric/protocol.h"
#include "fabric/reception.h"
#include "system/event_loop.h"
#include "system/unique_fd.h"

namespace weightcast {

/// The source's side of a stream: answers requests for pieces in the order they came, straight out of the mapping.
/// Used on its loop's thread; keeps itself until the connection ends.
///
/// Without MSG_ZEROCOPY: the kernel would then read the memory after the send has returned, for a retransmission even
/// much later, and the trailer could not vouch for the bytes before it.
class ServedStream : public std::enable_shared_from_this<ServedStream> {
 public:
  static void Start(EventLoop& loop, UniqueFd socket, Places::Place place, const ExposureTable& exposures);

 private:
  struct Reply {
    /// Kept while bytes of it are sent; null when the request was refused.
    std::shared_ptr<Exposure> exposure;
    StreamHeader header;
    uint64_t offset;
  };

  ServedStream(EventLoop& loop, UniqueFd socket, Places::Place place, const ExposureTable& exposures);
  void OnReady(uint32_t events);
  /// All three are false once the connection is at its end.
  bool ReceiveRequests();
  bool SendReplies();
  bool SendPart(const void* bytes, size_t count, bool more_follows);
  Reply ReplyTo(const StreamRequest& request) const;
  void End();

  EventLoop& loop_;
  UniqueFd socket_;
  const Places::Place place_;
  const ExposureTable& exposures_;
  EventLoop::Handle watch_;

  uint8_t incoming_[sizeof(StreamRequest)];
  size_t received_ = 0;
  std::deque<Reply> replies_;
  /// Bytes of the first reply that are gone, its header and trailer counted.
  uint64_t sent_ = 0;
  StreamTrailer trailer_{};
  bool blocked_ = false;
};

}  // namespace weightcast
