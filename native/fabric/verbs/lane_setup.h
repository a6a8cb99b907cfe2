#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fabric/address.h"
#include "fabric/control.h"
#include "fabric/verbs/verbs_carrier.h"
#include "fabric/verbs/verbs_device.h"

namespace weightcast {

/// The reader's side of making queue pairs to a peer: with each of its ports, or each of the peer's if those are more,
/// the n-th with the n-th, because in large networks a card reaches only the cards of its own rail. Every pair has to
/// fetch a word before it is trusted with more, so that a network that lets nothing through is found out here.
///
/// On the control connection, frame::kOpenLanes: u8 count, then for each u8 port of the source and a QueuePairEnd;
/// frame::kLanesOpen: u8 count, then a QueuePairEnd for each, u64 address of the word, u8 count of ports, u32 key for
/// each; or zero and why, as text.
///
/// Used on the control loop's thread. It owns itself until it has called `done`, which it does once unless cancelled.
class LaneSetup : public std::enable_shared_from_this<LaneSetup> {
 public:
  static constexpr size_t kMostLanes = 16;
  using Done = std::function<void(std::optional<Failure>, std::vector<VerbsLane>)>;

  /// Whether the two have ports for the same kind of network.
  static bool IsPossible(const VerbsHost& host, const FabricAddress& peer);
  static std::shared_ptr<LaneSetup> Start(EventLoop& loop, std::shared_ptr<VerbsHost> host, const FabricAddress& peer,
                                          FrameSocket& control, Done done);
  void Cancel();

 private:
  LaneSetup(EventLoop& loop, std::shared_ptr<VerbsHost> host, size_t remote_ports, FrameSocket& control, Done done);
  void Ask();
  void OnFrame(const FrameSocket::Frame& frame);
  void Probe(ByteReader& fields);
  void OnProbed(size_t index);
  void EndProbe(size_t index, bool works);
  void EndLateProbes();
  void Finish(std::optional<Failure> failure);

  EventLoop& loop_;
  const std::shared_ptr<VerbsHost> host_;
  const size_t remote_ports_;
  FrameSocket& control_;
  Done done_;
  std::vector<VerbsLane> lanes_;
  PrivatePage page_;
  RegionSet page_regions_;
  std::vector<EventLoop::Handle> watches_;
  std::vector<bool> ended_;
  std::vector<bool> works_;
  EventLoop::Handle deadline_;
  size_t probing_ = 0;
  std::string why_;
};

/// The source's side of it: queue pairs that the peer may read through. Lives as long as the control connection.
class ServedLanes {
 public:
  /// Answers frame::kOpenLanes: the fields of frame::kLanesOpen. Throws EPROTO.
  Bytes Open(const VerbsHost& host, ByteReader& request);
  bool are_open() const { return !pairs_.empty(); }

 private:
  std::vector<std::unique_ptr<QueuePair>> pairs_;
};

}  // namespace weightcast
