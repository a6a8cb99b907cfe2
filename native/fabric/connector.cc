#include "fabric/connector.h"

#include <utility>

#include "fabric/shm_carrier.h"
#include "fabric/tcp_carrier.h"
#include "system/base.h"

namespace weightcast {

std::shared_ptr<Connector> Connector::Start(const ConnectContext& context, Call call, Done done) {
  std::shared_ptr<Connector> connector(new Connector(context, std::move(call), std::move(done)));
  connector->Guarded([&] { connector->Begin(); });
  return connector;
}

Connector::Connector(const ConnectContext& context, Call call, Done done)
    : context_(context), call_(std::move(call)), done_(std::move(done)) {}

template <class Step>
void Connector::Guarded(Step step) {
  try {
    step();
  } catch (...) {
    Fail(CurrentFailure());
  }
}

void Connector::Begin() {
  const double deadline = MonotonicMilliseconds() + call_.timeout_milliseconds;
  deadline_ = context_.threads->control.At(deadline, [self = shared_from_this()] {
    self->Fail(Failure(code::kDeadline, "connecting to " + self->call_.name + " took longer than " +
                                            std::to_string(static_cast<uint64_t>(self->call_.timeout_milliseconds)) +
                                            " ms"));
  });
  const bool may_be_local = call_.address.boot == ThisBoot() && call_.address.boot != BootId{};
  const bool wants_local = call_.way == Way::kAny || call_.way == Way::kShm;
  if (wants_local && may_be_local) {
    return Dial(Purpose::kControl, {Endpoint::Local(call_.address.fabric)}, &Connector::OnLocal);
  }
  if (call_.way == Way::kShm) return Fail(Failure("EINVAL", call_.name + " is not on this host"));
  DialHost();
}

void Connector::Dial(Purpose purpose, std::vector<Endpoint> endpoints, Then then) {
  Dialler::Call call{call_.address.fabric, purpose, std::move(endpoints), call_.name};
  diallers_.push_back(Dialler::Start(
      context_.threads->control, context_.credentials, std::move(call),
      [self = shared_from_this(), then](std::optional<Failure> failure, UniqueFd socket, const Endpoint& endpoint) {
        if (!self->done_) return;
        self->Guarded([&] { ((*self).*then)(std::move(failure), std::move(socket), endpoint); });
      }));
}

void Connector::DialHost() {
  std::vector<Endpoint> endpoints;
  for (const std::string& address : call_.address.addresses) {
    endpoints.push_back(Endpoint::Ip(address, call_.address.port));
  }
  if (endpoints.empty()) return Fail(Failure(code::kPeerLost, call_.name + " has no address"));
  Dial(Purpose::kControl, std::move(endpoints), &Connector::OnControl);
}

void Connector::OnLocal(std::optional<Failure> failure, UniqueFd socket, const Endpoint&) {
  if (!failure) {
    auto control = std::make_unique<FrameSocket>(context_.threads->control, std::move(socket));
    auto carrier = std::make_unique<ShmCarrier>(context_.pool);
    return Finish(std::nullopt,
                  std::make_shared<Peer>(context_.threads, call_.name, std::move(control), std::move(carrier)));
  }
  // The same kernel, but another network namespace, and so another host to us.
  if (call_.way == Way::kAny && failure->code() != code::kUnauthenticated) return DialHost();
  Fail(*failure);
}

void Connector::OnControl(std::optional<Failure> failure, UniqueFd socket, const Endpoint& endpoint) {
  if (failure) return Fail(*failure);
  DetectDeadPeer(socket.get());
  control_ = std::make_unique<FrameSocket>(context_.threads->control, std::move(socket));
  endpoint_ = endpoint;
  if (call_.way == Way::kTcp) return DialStreams();
  if (context_.verbs && LaneSetup::IsPossible(*context_.verbs, call_.address)) return SetUpLanes();
  const std::string why = !context_.verbs                ? "this process uses no RDMA port"
                          : call_.address.rdma.empty() ? "it uses no RDMA port"
                                                       : "it has no RDMA port for the same kind of network";
  if (call_.way == Way::kAny) return TakeTcp(why);
  Fail(Failure("ENODEV", "there is no RDMA to " + call_.name + ": " + why));
}

void Connector::TakeTcp(std::string why) {
  why_not_rdma_ = std::move(why);
  DialStreams();
}

void Connector::SetUpLanes() {
  const auto done = [self = shared_from_this()](std::optional<Failure> failure, std::vector<VerbsLane> lanes) {
    if (!self->done_) return;
    self->Guarded([&] { self->OnLanes(std::move(failure), std::move(lanes)); });
  };
  try {
    lane_setup_ = LaneSetup::Start(context_.threads->control, context_.verbs, call_.address, *control_, done);
  } catch (const Failure& failure) {
    OnLanes(failure, {});
  }
}

void Connector::OnLanes(std::optional<Failure> failure, std::vector<VerbsLane> lanes) {
  if (failure) {
    // An error of the connection itself shows again when the streams are dialled.
    if (call_.way == Way::kAny) return TakeTcp(failure->what());
    return Fail(Failure(failure->code().empty() ? "EHOSTUNREACH" : failure->code(),
                        "there is no RDMA to " + call_.name + ": " + failure->what()));
  }
  const auto queue = std::make_shared<LaneSet::Queue>();
  const auto peer = std::make_shared<std::weak_ptr<Peer>>();
  const auto set =
      std::make_shared<LaneSet>(context_.threads->NextDataLoop(), call_.name, std::move(lanes), queue, LossOf(peer));
  auto carrier =
      std::make_unique<VerbsCarrier>(context_.threads, context_.verbs, call_.address.rdma.size(), queue, set);
  auto made = std::make_shared<Peer>(context_.threads, call_.name, std::move(control_), std::move(carrier));
  *peer = made;
  set->loop().Post([set] { set->Start(); });
  Finish(std::nullopt, std::move(made));
}

void Connector::DialStreams() {
  for (unsigned count = 0; count < context_.streams && done_; count++) {
    Dial(Purpose::kStream, {*endpoint_}, &Connector::OnStream);
  }
}

void Connector::OnStream(std::optional<Failure> failure, UniqueFd socket, const Endpoint&) {
  if (failure) return Fail(*failure);
  DetectDeadPeer(socket.get());
  streams_.push_back(std::move(socket));
  if (streams_.size() == context_.streams) FinishTcp();
}

void Connector::FinishTcp() {
  const auto queue = std::make_shared<TcpCarrier::Queue>();
  const auto peer = std::make_shared<std::weak_ptr<Peer>>();
  std::vector<std::shared_ptr<ReadStream>> streams;
  for (UniqueFd& socket : streams_) {
    streams.push_back(std::make_shared<ReadStream>(context_.threads->NextDataLoop(), std::move(socket), call_.name,
                                                   queue, LossOf(peer)));
  }
  auto made = std::make_shared<Peer>(context_.threads, call_.name, std::move(control_),
                                     std::make_unique<TcpCarrier>(queue, streams), why_not_rdma_);
  *peer = made;
  for (const auto& stream : streams) stream->loop().Post([stream] { stream->Start(); });
  Finish(std::nullopt, std::move(made));
}

LaneSet::OnLost Connector::LossOf(std::shared_ptr<std::weak_ptr<Peer>> peer) const {
  // The carrier is made before the peer that it reports to; hence a pointer that is filled in later.
  return [threads = context_.threads, peer = std::move(peer)](const std::string& how) {
    threads->control.Post([peer, how] {
      if (const auto found = peer->lock()) found->Lose(how);
    });
  };
}

void Connector::Fail(const Failure& failure) { Finish(failure, nullptr); }

void Connector::Cancel() { Fail(Failure(code::kAborted, "connecting to " + call_.name + " was cancelled")); }

void Connector::Finish(std::optional<Failure> failure, std::shared_ptr<Peer> peer) {
  if (!done_) return;
  const Done done = std::exchange(done_, nullptr);
  deadline_.Reset();
  for (const auto& dialler : std::exchange(diallers_, {})) dialler->Cancel();
  if (lane_setup_) lane_setup_->Cancel();
  control_.reset();
  streams_.clear();
  try {
    if (peer) peer->Start();
  } catch (...) {
    failure = CurrentFailure();
    peer->End(*failure);
    peer = nullptr;
  }
  done(std::move(failure), std::move(peer));
}

}  // namespace weightcast
