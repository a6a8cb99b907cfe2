#include "fabric/acceptor.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "fabric/address.h"
#include "fabric/control.h"
#include "fabric/tcp_carrier.h"
#include "system/base.h"

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

namespace {

constexpr size_t kMostAttached = 4096;

}  // namespace

ServedPeer::ServedPeer(EventLoop& loop, UniqueFd socket, bool is_local, Places::Place place,
                       const ExposureTable& exposures, const VerbsHost* verbs, std::function<void()> on_end)
    : control_(loop, std::move(socket)),
      is_local_(is_local),
      place_(std::move(place)),
      exposures_(exposures),
      verbs_(verbs),
      on_end_(std::move(on_end)) {
  control_.Start([this](const FrameSocket::Frame& frame) { OnFrame(frame); },
                 [this](const Failure&) {
                   const auto on_end = on_end_;
                   on_end();
                 });
}

ServedPeer::~ServedPeer() {
  for (const auto& [token, exposure] : attached_) exposure->readers.fetch_sub(1);
}

void ServedPeer::Withdraw(const Token& token) {
  const auto found = attached_.find(token);
  if (found == attached_.end()) return;
  found->second->readers.fetch_sub(1);
  attached_.erase(found);
  ByteWriter fields;
  fields.Put(token);
  control_.Send(frame::kWithdrawn, fields.Take());
}

void ServedPeer::OnFrame(const FrameSocket::Frame& frame) {
  if (frame.type == frame::kAttach) return Attach(frame);
  if (frame.type == frame::kOpenLanes && verbs_ != nullptr) return OpenLanes(frame);
  throw Failure("EPROTO", "a message of an unknown type");
}

void ServedPeer::OpenLanes(const FrameSocket::Frame& frame) {
  ByteReader request(frame.fields);
  control_.Send(frame::kLanesOpen, lanes_.Open(*verbs_, request));
}

void ServedPeer::Attach(const FrameSocket::Frame& frame) {
  ByteReader request(frame.fields);
  const auto number = request.Get<uint32_t>();
  const Token token = request.GetArray<16>();
  request.ExpectEnd();
  std::shared_ptr<Exposure> exposure = exposures_.Find(token);
  const bool is_known = attached_.count(token) > 0;
  const bool is_good = exposure && exposure->is_open() && (is_known || attached_.size() < kMostAttached);
  ByteWriter answer;
  answer.Put(number);
  answer.Put(static_cast<uint8_t>(is_good                                      ? Verdict::kGood
                                  : attached_.size() >= kMostAttached && exposure ? Verdict::kFull
                                                                               : Verdict::kWithdrawn));
  answer.Put(is_good ? exposure->mapping().bytes() : uint64_t{0});
  if (is_good && lanes_.are_open() && exposure->regions()) {
    const std::vector<uint32_t>& keys = exposure->regions()->remote_keys();
    answer.Put(exposure->regions()->address());
    answer.Put(static_cast<uint8_t>(keys.size()));
    for (const uint32_t key : keys) answer.Put(key);
  }
  std::vector<int> descriptors;
  if (is_good && is_local_) descriptors = {exposure->file(), exposure->state_file()};
  control_.Send(frame::kAttached, answer.Take(), descriptors);
  if (!is_good || is_known) return;
  exposure->readers.fetch_add(1);
  attached_.emplace(token, std::move(exposure));
}

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
