#pragma once

#include <memory>

#include "fabric/read.h"
#include "memory/thread_pool.h"

namespace weightcast {

/// From a peer of the same host: its files, handed over as descriptors, are mapped here and copied from by the
/// threads of a pool. The peer takes no part.
class ShmCarrier : public Carrier {
 public:
  explicit ShmCarrier(std::shared_ptr<ThreadPool> pool) : pool_(std::move(pool)) {}

  const char* kind() const override { return "shm"; }
  void Complete(RemoteSegment& segment, ByteReader& fields, FrameSocket& control) override;
  void Begin(std::shared_ptr<Read> read, std::shared_ptr<RemoteSegment> segment) override;
  /// The threads look whether the read has failed before each piece.
  void Drop(const std::shared_ptr<Read>&) override {}
  void End() override {}

 private:
  const std::shared_ptr<ThreadPool> pool_;
};

}  // namespace weightcast
