#pragma once

#include <functional>
#include <map>
#include <memory>

#include "fabric/exposure.h"
#include "fabric/frame_socket.h"
#include "fabric/reception.h"
#include "fabric/verbs/lane_setup.h"

namespace weightcast {

/// The source's side of a control connection: tells a reader where segments lie, and when they are withdrawn. Used on
/// the control loop's thread.
class ServedPeer {
 public:
  /// `verbs` is null where there is no RDMA. `on_end` is called once when the connection has ended, and may destroy
  /// this.
  ServedPeer(EventLoop& loop, UniqueFd socket, bool is_local, Places::Place place, const ExposureTable& exposures,
             const VerbsHost* verbs, std::function<void()> on_end);
  ~ServedPeer();
  ServedPeer(const ServedPeer&) = delete;
  ServedPeer& operator=(const ServedPeer&) = delete;

  void Withdraw(const Token& token);

 private:
  void OnFrame(const FrameSocket::Frame& frame);
  void OpenLanes(const FrameSocket::Frame& frame);
  void Attach(const FrameSocket::Frame& frame);

  FrameSocket control_;
  const bool is_local_;
  const Places::Place place_;
  const ExposureTable& exposures_;
  const VerbsHost* const verbs_;
  const std::function<void()> on_end_;
  ServedLanes lanes_;
  std::map<Token, std::shared_ptr<Exposure>> attached_;
};

}  // namespace weightcast
