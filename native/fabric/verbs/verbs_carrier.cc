#include "fabric/verbs/verbs_carrier.h"

#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "system/base.h"

namespace weightcast {
namespace {

/// Small enough for many to be in flight, large enough for posting them to cost nothing beside.
constexpr uint64_t kPiece = uint64_t{512} << 10;
/// How long the pieces of a failed read may stay in flight: longer than a queue pair takes to give up.
constexpr double kGraceMilliseconds = 1000;

}  // namespace

LaneSet::LaneSet(EventLoop& loop, std::string peer, std::vector<VerbsLane> lanes, std::shared_ptr<Queue> queue,
                 OnLost on_lost)
    : loop_(loop), peer_(std::move(peer)), queue_(std::move(queue)), on_lost_(std::move(on_lost)) {
  for (VerbsLane& lane : lanes) lanes_.push_back({std::move(lane), {}, {}, 0});
}

void LaneSet::Start() {
  try {
    for (Active& active : lanes_) {
      // Kept by the handlers until End().
      active.watch = loop_.Watch(active.lane.pair->completion_descriptor(), EPOLLIN,
                                 [self = shared_from_this(), &active](uint32_t) { self->OnCompletions(active); });
      active.lane.pair->Rearm();
    }
  } catch (const Failure& failure) {
    Lose(failure.what());
  }
  Pump();
}

void LaneSet::Pump() {
  for (Active& active : lanes_) {
    try {
      Fill(active);
    } catch (const Failure& failure) {
      return Lose(failure.what());
    }
  }
}

void LaneSet::Fill(Active& active) {
  const VerbsLane& lane = active.lane;
  while (active.posted.size() < lane.pair->capacity()) {
    auto taken = queue_->Take(kPiece);
    if (!taken) return;
    const uint64_t number = ++active.last_number;
    const auto& [read, segment, piece] = active.posted.emplace(number, std::move(*taken)).first->second;
    lane.pair->PostRead(number, read->destination()->data() + piece.destination_offset,
                        segment->destination->local_keys()[lane.local_port],
                        segment->remote->address + piece.source_offset, segment->remote->keys[lane.remote_port],
                        static_cast<uint32_t>(piece.bytes));
  }
}

void LaneSet::OnCompletions(Active& active) {
  const auto self = shared_from_this();
  try {
    active.lane.pair->Rearm();
    QueuePair::Completion completion{};
    while (!lanes_.empty() && active.lane.pair->Poll(&completion)) Settle(active, completion);
  } catch (const Failure& failure) {
    Lose(failure.what());
  }
  Pump();
}

void LaneSet::Settle(Active& active, const QueuePair::Completion& completion) {
  const auto found = active.posted.find(completion.number);
  if (found == active.posted.end()) throw Failure("EIO", "a completion of no read");
  const Queue::Taken taken = std::move(found->second);
  active.posted.erase(found);
  if (completion.status == ibv::kWcSuccess) return taken.read->Complete(taken.piece);
  const QueuePair& pair = *active.lane.pair;
  const char* const status = pair.device().library().wc_status_str(completion.status);
  const std::string how = pair.device().name() + " reports: " + status;
  if (completion.status == ibv::kWcRemoteAccessError) {
    taken.read->Fail(Failure(code::kWithdrawn, peer_ + " no longer exposes the segment"));
  } else {
    taken.read->Fail(Failure(code::kPeerLost, peer_ + " is lost: " + how));
  }
  taken.read->Release();
  // A queue pair that has reported one error carries nothing any more.
  Lose(how);
}

bool LaneSet::HasPieces(const std::shared_ptr<Read>& read) const {
  return std::any_of(lanes_.begin(), lanes_.end(), [&](const Active& active) {
    return std::any_of(active.posted.begin(), active.posted.end(),
                       [&](const auto& each) { return each.second.read == read; });
  });
}

void LaneSet::Drop(const std::shared_ptr<Read>& read) {
  if (!HasPieces(read)) return;
  const uint64_t number = ++last_drop_timer_;
  drop_timers_[number] =
      loop_.At(MonotonicMilliseconds() + kGraceMilliseconds, [self = shared_from_this(), number, read] {
        self->drop_timers_.erase(number);
        if (self->HasPieces(read)) self->Lose("its memory does not answer");
      });
}

void LaneSet::Lose(const std::string& how) {
  if (lanes_.empty()) return;
  for (const Active& active : lanes_) {
    for (const auto& [number, taken] : active.posted) {
      taken.read->Fail(Failure(code::kPeerLost, peer_ + " is lost: " + how));
    }
  }
  End();
  on_lost_(how);
}

void LaneSet::End() {
  drop_timers_.clear();
  for (Active& active : std::exchange(lanes_, {})) {
    active.watch.Reset();
    // From here on the card writes no more.
    active.lane.pair.reset();
    for (const auto& [number, taken] : active.posted) taken.read->Release();
  }
}

void VerbsCarrier::Complete(RemoteSegment& segment, ByteReader& fields, FrameSocket&) {
  segment.address = fields.Get<uint64_t>();
  for (auto left = fields.Get<uint8_t>(); left > 0; left--) segment.keys.push_back(fields.Get<uint32_t>());
  fields.ExpectEnd();
  if (segment.keys.size() != remote_ports_) throw Failure("EPROTO", "a peer has not registered its segment");
}

void VerbsCarrier::Begin(std::shared_ptr<Read> read, std::shared_ptr<RemoteSegment> segment) {
  // Pinning much memory takes long, and this thread has other peers to look after.
  threads_->registrar->Post(
      [host = host_, queue = queue_, lanes = lanes_, read = std::move(read), segment = std::move(segment)]() mutable {
        LaneSet::Segment target;
        try {
          target.destination = host->RegisterDestination(read->destination());
        } catch (...) {
          return read->Fail(CurrentFailure());
        }
        target.remote = std::move(segment);
        read->Begin();
        queue->Add(std::move(read), std::make_shared<LaneSet::Segment>(std::move(target)));
        lanes->loop().Post([lanes] { lanes->Pump(); });
      });
}

void VerbsCarrier::Drop(const std::shared_ptr<Read>& read) {
  lanes_->loop().Post([lanes = lanes_, read] { lanes->Drop(read); });
}

void VerbsCarrier::End() {
  lanes_->loop().Post([lanes = lanes_] { lanes->End(); });
}

}  // namespace weightcast
