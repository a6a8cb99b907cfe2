#include "fabric/reception.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "fabric/endpoint.h"
#include "system/clock.h"

namespace weightcast {
namespace {

constexpr size_t kMostStrangers = 64;
constexpr double kHandshakeMilliseconds = 5000;
constexpr int kAcceptAtOnce = 16;
/// How long nothing is accepted when the process has no descriptors left.
constexpr double kRestMilliseconds = 100;

}  // namespace

Places::Place Places::Take(const std::shared_ptr<Places>& places) {
  if (places->taken_.fetch_add(1) >= kCapacity) {
    places->taken_.fetch_sub(1);
    return nullptr;
  }
  return Place(places.get(), [places](void*) { places->taken_.fetch_sub(1); });
}

Reception::Reception(EventLoop& loop, const Greeter::Credentials& credentials, OnGuest on_guest)
    : loop_(loop), credentials_(credentials), on_guest_(std::move(on_guest)) {}

Reception::~Reception() {
  for (Stranger& stranger : strangers_) stranger.greeter->Cancel();
}

void Reception::ListenAt(UniqueFd socket, bool is_local) {
  doors_.push_back({std::move(socket), is_local, {}});
  Door& door = doors_.back();
  door.watch = loop_.Watch(door.socket.get(), EPOLLIN, [this, &door](uint32_t) { Accept(door); });
}

void Reception::Accept(Door& door) {
  for (int count = 0; count < kAcceptAtOnce; count++) {
    UniqueFd socket(accept4(door.socket.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
      // What waits stays in the queue, and would make this spin.
      return Rest(door);
    }
    if (!socket) return;
    Places::Place place = Places::Take(places_);
    if (!place) continue;
    try {
      Greet(std::move(socket), door.is_local, std::move(place));
    } catch (const Failure&) {
      // This one is not let in; the next may be.
    }
  }
}

void Reception::Rest(Door& door) {
  door.watch = loop_.At(MonotonicMilliseconds() + kRestMilliseconds, [this, &door] {
    try {
      door.watch = loop_.Watch(door.socket.get(), EPOLLIN, [this, &door](uint32_t) { Accept(door); });
    } catch (const Failure&) {
      Rest(door);
    }
  });
}

void Reception::Greet(UniqueFd socket, bool is_local, Places::Place place) {
  if (strangers_.size() >= kMostStrangers) {
    strangers_.front().greeter->Cancel();
    strangers_.pop_front();
  }
  if (!is_local) BoundPatience(socket.get());
  const auto stranger = strangers_.emplace(strangers_.end());
  const auto on_greeted = [this, stranger, is_local, place](auto failure, Greeter::Greeted greeted) {
    strangers_.erase(stranger);
    if (!failure) on_guest_(std::move(greeted), is_local, place);
  };
  try {
    stranger->greeter = Greeter::Answer(loop_, std::move(socket), credentials_, on_greeted);
  } catch (...) {
    strangers_.erase(stranger);
    throw;
  }
  stranger->deadline = loop_.At(MonotonicMilliseconds() + kHandshakeMilliseconds, [this, stranger] {
    stranger->greeter->Cancel();
    strangers_.erase(stranger);
  });
}

}  // namespace weightcast
