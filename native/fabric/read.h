#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "fabric/control.h"
#include "fabric/exposure.h"
#include "memory/mapping.h"
#include "system/base.h"

namespace weightcast {

/// Bytes of a peer's segment and where they go.
struct ReadRange {
  uint64_t source_offset;
  uint64_t destination_offset;
  uint64_t bytes;
};

/// One read of a peer's segment into a mapping, handed out in pieces to the peer's carrier. It ends when all pieces
/// are complete; or, once it has failed, when every piece that was taken has been released: from then on nothing writes
/// to the destination.
///
/// Safe among threads. `done` runs on the thread that ends the read.
class Read {
 public:
  /// `progress` counts the bytes that have arrived; may be null. Throws OUT_OF_RANGE or EACCES for the
  /// destination.
  Read(std::vector<ReadRange> ranges, std::shared_ptr<Mapping> destination, double* progress, Done done);

  const std::shared_ptr<Mapping>& destination() const { return destination_; }
  uint64_t bytes() const { return bytes_; }

  /// Throws OUT_OF_RANGE unless all ranges lie in a source of so many bytes. `source` names it.
  void CheckSource(uint64_t bytes, const std::string& source) const;
  /// Its pieces may be taken from now on; ends it at once if it has none.
  void Begin();

  /// The next piece, of at most so many bytes; nothing if there is none left or the read has failed. A piece that was
  /// taken is either completed or released.
  std::optional<ReadRange> Take(uint64_t most);
  /// All bytes of the piece are in their place.
  void Complete(const ReadRange& piece);
  /// The read has failed and this piece will not be written to any more.
  void Release();

  /// Hands out no more pieces. The first failure is the one that is reported.
  void Fail(const Failure& failure);
  bool has_failed() const;
  /// "3.1 MiB of 16 MiB had arrived": for messages.
  std::string ProgressText() const;

 private:
  /// Ends the read if nothing is missing. Unlocks.
  void FinishIfComplete(std::unique_lock<std::mutex> lock);

  const std::shared_ptr<Mapping> destination_;
  double* const progress_;
  /// Adjacent ranges made one, empty ones left out.
  const std::vector<ReadRange> ranges_;
  uint64_t bytes_ = 0;

  mutable std::mutex mutex_;
  Done done_;
  bool begun_ = false;
  size_t next_range_ = 0;
  uint64_t next_offset_ = 0;
  uint64_t completed_ = 0;
  size_t taken_ = 0;
  Outcome outcome_;
};

/// The reads of one peer in the order they were submitted: the carrier takes pieces of the oldest that has any.
/// Safe among threads.
template <class Segment>
class ReadQueue {
 public:
  struct Taken {
    std::shared_ptr<Read> read;
    std::shared_ptr<Segment> segment;
    ReadRange piece;
  };

  void Add(std::shared_ptr<Read> read, std::shared_ptr<Segment> segment) {
    const std::lock_guard<std::mutex> lock(mutex_);
    reads_.push_back({std::move(read), std::move(segment)});
  }

  std::optional<Taken> Take(uint64_t most) {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (!reads_.empty()) {
      auto& [read, segment] = reads_.front();
      if (const auto piece = read->Take(most)) return Taken{read, segment, *piece};
      reads_.pop_front();
    }
    return std::nullopt;
  }

 private:
  struct Queued {
    std::shared_ptr<Read> read;
    std::shared_ptr<Segment> segment;
  };
  std::mutex mutex_;
  std::deque<Queued> reads_;
};

/// A mapping that a peer exposes, as a reader knows it.
struct RemoteSegment {
  Token token{};
  uint64_t bytes = 0;
  /// Over shared memory: the same file, mapped here, and whether it is still exposed.
  std::shared_ptr<Mapping> mapping;
  std::shared_ptr<ExposureState> exposure_state;
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
  /// Reads what only this carrier needs from the peer's answer. Throws.
  virtual void Complete(RemoteSegment& segment, ByteReader& fields, FrameSocket& control) = 0;
  /// Begins to fill the read's destination. Throws, or fails the read later.
  virtual void Begin(std::shared_ptr<Read> read, std::shared_ptr<RemoteSegment> segment) = 0;
  /// The read has failed: releases its pieces soon, whatever happens.
  virtual void Drop(const std::shared_ptr<Read>& read) = 0;
  /// The peer is lost or closed, and all reads have failed: releases all pieces and resources.
  virtual void End() = 0;
};

}  // namespace weightcast
