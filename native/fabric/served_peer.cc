#include "fabric/served_peer.h"

#include <utility>

#include "fabric/protocol.h"
#include "fabric/wire.h"

namespace weightcast {
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

}  // namespace weightcast
