#include "fabric/acceptor.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <exception>
#include <utility>

#include "fabric/address.h"
#include "fabric/control.h"
#include "fabric/tcp_carrier.h"
#include "system/base.h"

namespace weightcast {
namespace {

constexpr size_t kMostPending = 64;
constexpr double kHandshakeMilliseconds = 5000;
constexpr int kAcceptAtOnce = 16;
/// How long nothing is accepted when the process has no descriptors left.
constexpr double kPauseMilliseconds = 100;

}  // namespace

ConnectionQuota::Slot ConnectionQuota::Take(const std::shared_ptr<ConnectionQuota>& quota) {
  if (quota->taken_.fetch_add(1) >= kCapacity) {
    quota->taken_.fetch_sub(1);
    return nullptr;
  }
  return Slot(quota.get(), [quota](void*) { quota->taken_.fetch_sub(1); });
}

Acceptor::Acceptor(EventLoop& loop, const Handshake::Credentials& credentials, OnAuthenticated on_authenticated)
    : loop_(loop), credentials_(credentials), on_authenticated_(std::move(on_authenticated)) {}

Acceptor::~Acceptor() {
  for (PendingConnection& pending : pending_) pending.handshake->Cancel();
}

void Acceptor::ListenAt(UniqueFd socket, bool is_local) {
  listeners_.push_back({std::move(socket), is_local, {}});
  Listener& listener = listeners_.back();
  listener.watch = loop_.Watch(listener.socket.get(), EPOLLIN, [this, &listener](uint32_t) { Accept(listener); });
}

void Acceptor::Accept(Listener& listener) {
  for (int count = 0; count < kAcceptAtOnce; count++) {
    UniqueFd socket(accept4(listener.socket.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
      // What waits stays in the queue, and would make this spin.
      return PauseAccepting(listener);
    }
    if (!socket) return;
    ConnectionQuota::Slot slot = ConnectionQuota::Take(quota_);
    if (!slot) continue;
    try {
      Authenticate(std::move(socket), listener.is_local, std::move(slot));
    } catch (const std::exception&) {
      // This connection is closed; the next may be accepted.
    }
  }
}

void Acceptor::PauseAccepting(Listener& listener) {
  listener.watch = loop_.At(MonotonicMilliseconds() + kPauseMilliseconds, [this, &listener] {
    try {
      listener.watch = loop_.Watch(listener.socket.get(), EPOLLIN, [this, &listener](uint32_t) { Accept(listener); });
    } catch (const Failure&) {
      PauseAccepting(listener);
    }
  });
}

void Acceptor::Authenticate(UniqueFd socket, bool is_local, ConnectionQuota::Slot slot) {
  if (pending_.size() >= kMostPending) {
    pending_.front().handshake->Cancel();
    pending_.pop_front();
  }
  if (!is_local) DetectStalledReader(socket.get());
  const auto pending = pending_.emplace(pending_.end());
  const auto on_authenticated = [this, pending, is_local, slot](auto failure, Handshake::Authenticated authenticated) {
    pending_.erase(pending);
    if (!failure) on_authenticated_(std::move(authenticated), is_local, slot);
  };
  try {
    pending->handshake = Handshake::Answer(loop_, std::move(socket), credentials_, on_authenticated);
  } catch (...) {
    pending_.erase(pending);
    throw;
  }
  pending->deadline = loop_.At(MonotonicMilliseconds() + kHandshakeMilliseconds, [this, pending] {
    pending->handshake->Cancel();
    pending_.erase(pending);
  });
}

namespace {

constexpr size_t kMostAttached = 4096;

}  // namespace

ServedPeer::ServedPeer(EventLoop& loop, UniqueFd socket, bool is_local, ConnectionQuota::Slot slot,
                       const ExposureTable& exposures, const VerbsHost* verbs, std::function<void()> on_end)
    : control_(loop, std::move(socket)),
      is_local_(is_local),
      slot_(std::move(slot)),
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
  answer.Put(static_cast<uint8_t>(is_good                                         ? Verdict::kGood
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

Server::Server(FabricThreads& threads, const Handshake::Credentials& credentials, const ExposureTable& exposures,
               const VerbsHost* verbs)
    : threads_(threads),
      exposures_(exposures),
      verbs_(verbs),
      acceptor_(threads.control, credentials,
                [this](Handshake::Authenticated connection, bool is_local, ConnectionQuota::Slot slot) {
                  Serve(std::move(connection), is_local, std::move(slot));
                }) {}

void Server::Serve(Handshake::Authenticated connection, bool is_local, ConnectionQuota::Slot slot) {
  if (connection.purpose == Purpose::kStream) {
    EventLoop& data_loop = threads_.NextDataLoop();
    // A task is copied, and a descriptor is not.
    const auto socket = std::make_shared<UniqueFd>(std::move(connection.socket));
    data_loop.Post([&data_loop, socket, slot = std::move(slot), &exposures = exposures_] {
      try {
        ServedStream::Start(data_loop, std::move(*socket), slot, exposures);
      } catch (const Failure&) {
        // The connection ends, and so the reader notices.
      }
    });
    return;
  }
  const auto at = peers_.emplace(peers_.end());
  try {
    *at = std::make_unique<ServedPeer>(threads_.control, std::move(connection.socket), is_local, std::move(slot),
                                       exposures_, verbs_, [this, at] { peers_.erase(at); });
  } catch (const Failure&) {
    peers_.erase(at);
  }
}

void Server::Withdraw(const Token& token) {
  for (auto at = peers_.begin(); at != peers_.end();) {
    const auto peer = at++;
    try {
      (*peer)->Withdraw(token);
    } catch (const Failure&) {
      // It takes no messages: it must not go on believing that the segment may be read.
      peers_.erase(peer);
    }
  }
}

}  // namespace weightcast
