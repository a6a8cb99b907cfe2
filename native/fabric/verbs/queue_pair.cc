#include "fabric/verbs/queue_pair.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "fabric/address.h"
#include "system/base.h"

namespace weightcast {
namespace {

/// 0.64 ms; there are no receives that could be missing.
constexpr uint8_t kReceiverNotReadyTimer = 12;
constexpr uint8_t kReceiverNotReadyRetries = 7;
constexpr uint8_t kHopLimit = 64;
/// The card works on as many of them at a time as both ends can; those behind keep it busy.
constexpr uint32_t kReadsPosted = 8;

uint32_t RandomPacketNumber() {
  const auto bytes = RandomArray<std::array<uint8_t, 3>>();
  return static_cast<uint32_t>(bytes[0]) | static_cast<uint32_t>(bytes[1]) << 8 | static_cast<uint32_t>(bytes[2]) << 16;
}

}  // namespace

void QueuePairEnd::Put(ByteWriter& writer) const {
  writer.Put(number);
  writer.Put(first_packet);
  writer.Put(reads_answered);
  writer.Put(mtu);
  writer.Put(lid);
  writer.Put(gid);
}

QueuePairEnd QueuePairEnd::Get(ByteReader& reader) {
  QueuePairEnd end;
  end.number = reader.Get<uint32_t>();
  end.first_packet = reader.Get<uint32_t>();
  end.reads_answered = reader.Get<uint8_t>();
  end.mtu = reader.Get<uint8_t>();
  end.lid = reader.Get<uint16_t>();
  end.gid = reader.GetArray<16>();
  return end;
}

QueuePair::QueuePair(std::shared_ptr<VerbsDevice> device, Role role)
    : device_(std::move(device)), library_(device_->library()), role_(role), first_packet_(RandomPacketNumber()) {
  try {
    if (role_ == Role::kReader) {
      channel_ = library_.create_comp_channel(device_->context());
      if (channel_ == nullptr) throw Failure::System(errno, "cannot make a completion channel of " + device_->name());
      fcntl(channel_->fd, F_SETFL, fcntl(channel_->fd, F_GETFL) | O_NONBLOCK);
    }
    completions_ = library_.create_cq(device_->context(), static_cast<int>(kReadsPosted), nullptr, channel_, 0);
    if (completions_ == nullptr) throw Failure::System(errno, "cannot make a completion queue of " + device_->name());
    ibv::QpInitAttr attributes{};
    attributes.send_cq = completions_;
    attributes.recv_cq = completions_;
    attributes.cap.max_send_wr = kReadsPosted;
    attributes.cap.max_recv_wr = 1;
    attributes.cap.max_send_sge = 1;
    attributes.cap.max_recv_sge = 1;
    attributes.qp_type = ibv::kQptRc;
    pair_ = library_.create_qp(device_->domain(), &attributes);
    if (pair_ == nullptr) throw Failure::System(errno, "cannot make a queue pair of " + device_->name());
    ibv::QpAttr initial{};
    initial.qp_state = ibv::kQpsInit;
    initial.port_num = device_->address().port;
    initial.pkey_index = device_->parameters().pkey_index;
    initial.qp_access_flags = role_ == Role::kSource ? ibv::kAccessRemoteRead : 0;
    Modify(initial, ibv::kQpState | ibv::kQpPkeyIndex | ibv::kQpPort | ibv::kQpAccessFlags, "initialise");
  } catch (...) {
    Destroy();
    throw;
  }
}

QueuePair::~QueuePair() { Destroy(); }

void QueuePair::Destroy() {
  if (pair_ != nullptr) library_.destroy_qp(pair_);
  if (completions_ != nullptr) library_.destroy_cq(completions_);
  if (channel_ != nullptr) library_.destroy_comp_channel(channel_);
}

uint32_t QueuePair::capacity() { return kReadsPosted; }

QueuePairEnd QueuePair::End() const {
  const RdmaPortAddress& port = device_->address();
  return {pair_->qp_num, first_packet_, device_->reads_answered(), port.mtu, port.lid, port.gid};
}

ibv::AhAttr QueuePair::PathTo(const QueuePairEnd& other) const {
  const bool is_roce = device_->address().link_layer == ibv::kLinkLayerEthernet;
  const bool same_subnet = std::equal(other.gid.begin(), other.gid.begin() + 8, device_->address().gid.begin());
  ibv::AhAttr path{};
  path.port_num = device_->address().port;
  path.dlid = other.lid;
  path.is_global = is_roce || !same_subnet ? 1 : 0;
  std::copy(other.gid.begin(), other.gid.end(), path.grh.dgid);
  path.grh.sgid_index = static_cast<uint8_t>(device_->gid_index());
  path.grh.hop_limit = kHopLimit;
  path.grh.traffic_class = device_->parameters().traffic_class;
  path.sl = device_->parameters().service_level;
  return path;
}

void QueuePair::Connect(const QueuePairEnd& other) {
  const uint8_t reads_answered = role_ == Role::kSource ? device_->reads_answered() : 1;
  ibv::QpAttr receiving{};
  receiving.qp_state = ibv::kQpsRtr;
  receiving.path_mtu = std::min(device_->address().mtu, other.mtu);
  receiving.dest_qp_num = other.number;
  receiving.rq_psn = other.first_packet;
  receiving.max_dest_rd_atomic = reads_answered;
  receiving.min_rnr_timer = kReceiverNotReadyTimer;
  receiving.ah_attr = PathTo(other);
  Modify(receiving,
         ibv::kQpState | ibv::kQpAv | ibv::kQpPathMtu | ibv::kQpDestQpn | ibv::kQpRqPsn | ibv::kQpMaxDestRdAtomic |
             ibv::kQpMinRnrTimer,
         "connect");
  const uint8_t reads = std::clamp<uint8_t>(other.reads_answered, 1, device_->reads_in_flight());
  ibv::QpAttr sending{};
  sending.qp_state = ibv::kQpsRts;
  sending.timeout = device_->parameters().timeout;
  sending.retry_cnt = device_->parameters().retries;
  sending.rnr_retry = kReceiverNotReadyRetries;
  sending.sq_psn = first_packet_;
  sending.max_rd_atomic = role_ == Role::kReader ? reads : 1;
  Modify(sending,
         ibv::kQpState | ibv::kQpTimeout | ibv::kQpRetryCnt | ibv::kQpRnrRetry | ibv::kQpSqPsn | ibv::kQpMaxQpRdAtomic,
         "connect");
}

void QueuePair::Modify(ibv::QpAttr& attributes, int mask, const char* what) {
  const int error = library_.modify_qp(pair_, &attributes, mask);
  if (error == 0) return;
  throw Failure::System(error > 0 ? error : errno,
                        std::string("cannot ") + what + " a queue pair of " + device_->name());
}

void QueuePair::PostRead(uint64_t number, uint8_t* destination, uint32_t local_key, uint64_t address,
                         uint32_t remote_key, uint32_t bytes) {
  ibv::Sge place{reinterpret_cast<uint64_t>(destination), bytes, local_key};
  ibv::SendWr request{};
  request.wr_id = number;
  request.sg_list = &place;
  request.num_sge = 1;
  request.opcode = ibv::kWrRdmaRead;
  request.send_flags = ibv::kSendSignaled;
  request.remote_addr = address;
  request.rkey = remote_key;
  ibv::SendWr* refused = nullptr;
  const int error = pair_->context->ops.post_send(pair_, &request, &refused);
  if (error != 0) throw Failure::System(error, "cannot read with " + device_->name());
}

void QueuePair::Rearm() {
  ibv::Cq* announced = nullptr;
  void* context = nullptr;
  unsigned count = 0;
  while (library_.get_cq_event(channel_, &announced, &context) == 0) count++;
  // A queue can only be destroyed when all its announcements have been acknowledged.
  if (count > 0) library_.ack_cq_events(completions_, count);
  const int error = completions_->context->ops.req_notify_cq(completions_, 0);
  if (error != 0) throw Failure::System(error, "cannot wait for completions of " + device_->name());
}

bool QueuePair::Poll(Completion* completion) {
  ibv::Wc found{};
  const int count = completions_->context->ops.poll_cq(completions_, 1, &found);
  if (count < 0) throw Failure("EIO", "the completion queue of " + device_->name() + " is broken");
  *completion = {found.wr_id, found.status};
  return count > 0;
}

}  // namespace weightcast
