#pragma once

#include <list>
#include <memory>

#include "fabric/exposure.h"
#include "fabric/loops.h"
#include "fabric/reception.h"
#include "fabric/served_peer.h"

namespace weightcast {

/// All that a fabric does for those who read from it. Used on the control loop's thread.
class Service {
 public:
  /// `verbs` is null where there is no RDMA.
  Service(Loops& loops, const Greeter::Credentials& credentials, const ExposureTable& exposures,
          const VerbsHost* verbs);

  void ListenAt(UniqueFd socket, bool is_local) { reception_.ListenAt(std::move(socket), is_local); }
  /// Tells all readers that it is not to be read any more.
  void Withdraw(const Token& token);

 private:
  void Admit(Greeter::Greeted guest, bool is_local, Places::Place place);

  Loops& loops_;
  const ExposureTable& exposures_;
  const VerbsHost* const verbs_;
  std::list<std::unique_ptr<ServedPeer>> peers_;
  Reception reception_;
};

}  // namespace weightcast
