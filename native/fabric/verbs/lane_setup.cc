#include "fabric/verbs/lane_setup.h"

#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "fabric/control.h"

namespace weightcast {
namespace {

/// A path that carries a word takes microseconds. One that does not may be tried by the card for a minute, as the
/// environment's variables say; meanwhile there is TCP.
constexpr double kProbeMilliseconds = 5000;

struct Ports {
  size_t local;
  size_t remote;
};

std::vector<Ports> PairedPorts(const VerbsHost& host, const FabricAddress& peer) {
  const auto& local = host.devices();
  const auto& remote = peer.rdma;
  std::vector<Ports> paired;
  if (local.empty() || remote.empty()) return paired;
  const size_t count = std::min(std::max(local.size(), remote.size()), LaneSetup::kMostLanes);
  for (size_t index = 0; index < count; index++) {
    const Ports ports{index % local.size(), index % remote.size()};
    if (local[ports.local]->address().link_layer == remote[ports.remote].link_layer) paired.push_back(ports);
  }
  return paired;
}

}  // namespace

bool LaneSetup::IsPossible(const VerbsHost& host, const FabricAddress& peer) {
  return !PairedPorts(host, peer).empty();
}

std::shared_ptr<LaneSetup> LaneSetup::Start(EventLoop& loop, std::shared_ptr<VerbsHost> host, const FabricAddress& peer,
                                            FrameSocket& control, Done done) {
  std::shared_ptr<LaneSetup> setup(new LaneSetup(loop, std::move(host), peer.rdma.size(), control, std::move(done)));
  for (const Ports& ports : PairedPorts(*setup->host_, peer)) {
    auto pair = std::make_unique<QueuePair>(setup->host_->devices()[ports.local], QueuePair::Role::kReader);
    setup->lanes_.push_back({std::move(pair), ports.local, ports.remote});
  }
  setup->Ask();
  return setup;
}

LaneSetup::LaneSetup(EventLoop& loop, std::shared_ptr<VerbsHost> host, size_t remote_ports, FrameSocket& control,
                     Done done)
    : loop_(loop),
      host_(std::move(host)),
      remote_ports_(remote_ports),
      control_(control),
      done_(std::move(done)),
      page_regions_(host_->devices(), page_.words(), PrivatePage::kBytes, ibv::kAccessLocalWrite, "a page") {}

void LaneSetup::Cancel() {
  done_ = nullptr;
  deadline_.Reset();
  watches_.clear();
  lanes_.clear();
}

void LaneSetup::Ask() {
  ByteWriter request;
  request.Put(static_cast<uint8_t>(lanes_.size()));
  for (const VerbsLane& lane : lanes_) {
    request.Put(static_cast<uint8_t>(lane.remote_port));
    lane.pair->End().Put(request);
  }
  control_.Start([self = shared_from_this()](const FrameSocket::Frame& frame) { self->OnFrame(frame); },
                 [self = shared_from_this()](const Failure& failure) { self->Finish(failure); });
  control_.Send(frame::kOpenLanes, request.Take());
}

void LaneSetup::OnFrame(const FrameSocket::Frame& frame) {
  if (!done_) return;
  const auto self = shared_from_this();
  try {
    if (frame.type != frame::kLanesOpen) throw Failure("EPROTO", "it did not answer the question for queue pairs");
    ByteReader fields(frame.fields);
    const auto count = fields.Get<uint8_t>();
    if (count == 0) throw Failure("ENODEV", "it opens no queue pairs: " + fields.GetText());
    if (count != lanes_.size()) throw Failure("EPROTO", "it opened another number of queue pairs");
    Probe(fields);
  } catch (const Failure& failure) {
    Finish(failure);
  }
}

void LaneSetup::Probe(ByteReader& fields) {
  for (const VerbsLane& lane : lanes_) lane.pair->Connect(QueuePairEnd::Get(fields));
  const auto address = fields.Get<uint64_t>();
  if (fields.Get<uint8_t>() != remote_ports_) throw Failure("EPROTO", "it has another number of RDMA ports");
  std::vector<uint32_t> keys;
  while (keys.size() < remote_ports_) keys.push_back(fields.Get<uint32_t>());
  fields.ExpectEnd();
  ended_.assign(lanes_.size(), false);
  works_.assign(lanes_.size(), false);
  watches_.resize(lanes_.size());
  probing_ = lanes_.size();
  deadline_ = loop_.At(MonotonicMilliseconds() + kProbeMilliseconds,
                       [self = shared_from_this()] { self->EndLateProbes(); });
  for (size_t index = 0; index < lanes_.size(); index++) {
    const VerbsLane& lane = lanes_[index];
    watches_[index] = loop_.Watch(lane.pair->completion_descriptor(), EPOLLIN,
                                  [self = shared_from_this(), index](uint32_t) { self->OnProbed(index); });
    lane.pair->Rearm();
    lane.pair->PostRead(index, reinterpret_cast<uint8_t*>(page_.words() + index),
                        page_regions_.local_keys()[lane.local_port], address, keys[lane.remote_port], sizeof(uint64_t));
  }
}

void LaneSetup::OnProbed(size_t index) {
  const auto self = shared_from_this();
  try {
    const VerbsLane& lane = lanes_[index];
    lane.pair->Rearm();
    QueuePair::Completion completion{};
    if (!lane.pair->Poll(&completion)) return;
    if (completion.status != ibv::kWcSuccess) {
      why_ = lane.pair->device().name() + " reports: " + lane.pair->device().library().wc_status_str(completion.status);
    }
    EndProbe(index, completion.status == ibv::kWcSuccess && page_.words()[index] == VerbsHost::kProbeWord);
  } catch (const Failure& failure) {
    why_ = failure.what();
    EndProbe(index, false);
  }
}

void LaneSetup::EndProbe(size_t index, bool works) {
  watches_[index].Reset();
  ended_[index] = true;
  works_[index] = works;
  probing_--;
  if (probing_ > 0) return;
  std::vector<VerbsLane> working;
  for (size_t each = 0; each < lanes_.size(); each++) {
    if (works_[each]) working.push_back(std::move(lanes_[each]));
  }
  lanes_ = std::move(working);
  if (lanes_.empty()) return Finish(Failure("EHOSTUNREACH", "its memory cannot be read over RDMA: " + why_));
  Finish(std::nullopt);
}

void LaneSetup::EndLateProbes() {
  const auto self = shared_from_this();
  why_ = "a read of one word took longer than " + std::to_string(static_cast<int>(kProbeMilliseconds)) + " ms";
  const std::vector<bool> ended = ended_;
  for (size_t index = 0; index < ended.size() && done_; index++) {
    if (!ended[index]) EndProbe(index, false);
  }
}

void LaneSetup::Finish(std::optional<Failure> failure) {
  if (!done_) return;
  const Done done = std::exchange(done_, nullptr);
  deadline_.Reset();
  watches_.clear();
  std::vector<VerbsLane> lanes = std::exchange(lanes_, {});
  if (failure) lanes.clear();
  done(std::move(failure), std::move(lanes));
}

Bytes ServedLanes::Open(const VerbsHost& host, ByteReader& request) {
  const auto count = request.Get<uint8_t>();
  if (count == 0 || count > LaneSetup::kMostLanes || are_open()) {
    throw Failure("EPROTO", "it asks for queue pairs that it cannot have");
  }
  ByteWriter answer;
  try {
    answer.Put(count);
    std::vector<std::unique_ptr<QueuePair>> pairs;
    for (uint8_t index = 0; index < count; index++) {
      const auto port = request.Get<uint8_t>();
      if (port >= host.devices().size()) throw Failure("ENODEV", "there is no such RDMA port");
      const QueuePairEnd other = QueuePairEnd::Get(request);
      pairs.push_back(std::make_unique<QueuePair>(host.devices()[port], QueuePair::Role::kSource));
      pairs.back()->Connect(other);
      pairs.back()->End().Put(answer);
    }
    request.ExpectEnd();
    pairs_ = std::move(pairs);
  } catch (const Failure& failure) {
    ByteWriter refusal;
    refusal.Put(uint8_t{0});
    refusal.Put(std::string(failure.what()));
    return refusal.Take();
  }
  answer.Put(host.probe_source().address());
  answer.Put(static_cast<uint8_t>(host.devices().size()));
  for (const uint32_t key : host.probe_source().remote_keys()) answer.Put(key);
  return answer.Take();
}

}  // namespace weightcast
