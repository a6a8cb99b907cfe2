#pragma once

#include <memory>
#include <vector>

#include "fabric/exposure.h"
#include "fabric/frame_socket.h"
#include "fabric/read.h"
#include "fabric/wire.h"

namespace weightcast {

/// A mapping that a peer exposes, as a reader knows it.
struct RemoteSegment {
  Token token{};
  uint64_t bytes = 0;
  /// Over shared memory: the same file, mapped here, and whether it is still exposed.
  std::shared_ptr<Mapping> mapping;
  std::shared_ptr<OpenWord> open_word;
  /// Over verbs: where it lies in the peer's memory, and the key of each of the peer's RDMA ports.
  uint64_t address = 0;
  std::vector<uint32_t> keys;
};

/// One way for bytes to come from a peer. Called on the control loop's thread.
class Carrier {
 public:
  virtual ~Carrier() = default;

  /// "shm", "verbs" or "tcp".
  virtual const char* kind() const = 0;
  /// Takes what only this way needs out of the peer's answer. Throws.
  virtual void Complete(RemoteSegment& segment, ByteReader& fields, FrameSocket& control) = 0;
  /// Begins to fill the read's destination. Throws, or fails the read later.
  virtual void Begin(std::shared_ptr<Read> read, std::shared_ptr<RemoteSegment> segment) = 0;
  /// The read has failed: brings its pieces back soon, in all circumstances.
  virtual void Drop(const std::shared_ptr<Read>& read) = 0;
  /// The peer is lost or closed, and all reads have failed: brings all pieces back and gives up what it holds.
  virtual void End() = 0;
};

}  // namespace weightcast
