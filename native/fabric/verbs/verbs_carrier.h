#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "fabric/read.h"
#include "fabric/threads.h"
#include "fabric/verbs/queue_pair.h"
#include "fabric/verbs/verbs_device.h"

namespace weightcast {

/// A queue pair to a peer, and which ports it joins.
struct VerbsLane {
  std::unique_ptr<QueuePair> pair;
  /// In VerbsHost::devices().
  size_t local_port;
  /// In the peer's FabricAddress.
  size_t remote_port;
};

/// The queue pairs to one peer: each takes pieces from the peer's queue as long as it has room, so that faster ports
/// carry more. Used on its loop's thread, or after that has stopped.
class LaneSet : public std::enable_shared_from_this<LaneSet> {
 public:
  /// Where pieces go is registered memory.
  struct Segment {
    std::shared_ptr<RemoteSegment> remote;
    std::shared_ptr<RegionSet> destination;
  };
  using Queue = ReadQueue<Segment>;
  using OnLost = std::function<void(const std::string& how)>;

  LaneSet(EventLoop& loop, std::string peer, std::vector<VerbsLane> lanes, std::shared_ptr<Queue> queue,
          OnLost on_lost);

  EventLoop& loop() { return loop_; }
  void Start();
  void Pump();
  /// The read has failed. The cards finish the pieces they have; a peer of which they get none is lost.
  void Drop(const std::shared_ptr<Read>& read);
  void End();

 private:
  struct Active {
    VerbsLane lane;
    EventLoop::Handle watch;
    std::unordered_map<uint64_t, Queue::Taken> posted;
    uint64_t last_number = 0;
  };

  void Fill(Active& active);
  void OnCompletions(Active& active);
  void Settle(Active& active, const QueuePair::Completion& completion);
  bool HasPieces(const std::shared_ptr<Read>& read) const;
  void Lose(const std::string& how);

  EventLoop& loop_;
  const std::string peer_;
  const std::shared_ptr<Queue> queue_;
  const OnLost on_lost_;
  std::vector<Active> lanes_;
  /// Of reads that were dropped, by numbers of their own.
  std::unordered_map<uint64_t, EventLoop::Handle> drop_timers_;
  uint64_t last_drop_timer_ = 0;
};

/// Over RDMA: the cards read the peer's memory, and its processor takes no part.
class VerbsCarrier : public Carrier {
 public:
  /// `remote_ports` is how many RDMA ports the peer has.
  VerbsCarrier(std::shared_ptr<FabricThreads> threads, std::shared_ptr<VerbsHost> host, size_t remote_ports,
               std::shared_ptr<LaneSet::Queue> queue, std::shared_ptr<LaneSet> lanes)
      : threads_(std::move(threads)),
        host_(std::move(host)),
        remote_ports_(remote_ports),
        queue_(std::move(queue)),
        lanes_(std::move(lanes)) {}

  const char* kind() const override { return "verbs"; }
  void Complete(RemoteSegment& segment, ByteReader& fields, FrameSocket& control) override;
  void Begin(std::shared_ptr<Read> read, std::shared_ptr<RemoteSegment> segment) override;
  void Drop(const std::shared_ptr<Read>& read) override;
  void End() override;

 private:
  const std::shared_ptr<FabricThreads> threads_;
  const std::shared_ptr<VerbsHost> host_;
  const size_t remote_ports_;
  const std::shared_ptr<LaneSet::Queue> queue_;
  const std::shared_ptr<LaneSet> lanes_;
};

}  // namespace weightcast
