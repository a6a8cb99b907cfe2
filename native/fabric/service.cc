#include "fabric/service.h"

#include <utility>

#include "fabric/served_stream.h"

namespace weightcast {

Service::Service(Loops& loops, const Greeter::Credentials& credentials, const ExposureTable& exposures,
                 const VerbsHost* verbs)
    : loops_(loops),
      exposures_(exposures),
      verbs_(verbs),
      reception_(loops.control, credentials,
                 [this](Greeter::Greeted guest, bool is_local, Places::Place place) {
                   Admit(std::move(guest), is_local, std::move(place));
                 }) {}

void Service::Admit(Greeter::Greeted guest, bool is_local, Places::Place place) {
  if (guest.purpose == Purpose::kStream) {
    EventLoop& mover = loops_.NextMover();
    // A task is copied, and a descriptor is not.
    const auto socket = std::make_shared<UniqueFd>(std::move(guest.socket));
    mover.Post([&mover, socket, place = std::move(place), &exposures = exposures_] {
      try {
        ServedStream::Start(mover, std::move(*socket), place, exposures);
      } catch (const Failure&) {
        // The connection ends, and the reader learns of it by that.
      }
    });
    return;
  }
  const auto at = peers_.emplace(peers_.end());
  try {
    *at = std::make_unique<ServedPeer>(loops_.control, std::move(guest.socket), is_local, std::move(place), exposures_,
                                       verbs_, [this, at] { peers_.erase(at); });
  } catch (const Failure&) {
    peers_.erase(at);
  }
}

void Service::Withdraw(const Token& token) {
  for (auto at = peers_.begin(); at != peers_.end();) {
    const auto peer = at++;
    try {
      (*peer)->Withdraw(token);
    } catch (const Failure&) {
      // It takes no messages: it must not go on believing that the segment is there.
      peers_.erase(peer);
    }
  }
}

}  // namespace weightcast
