#include "fabric/tcp_carrier.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <cstring>
#include <utility>

namespace weightcast {
namespace {

constexpr uint64_t kPiece = uint64_t{1} << 20;
/// Pieces asked for ahead, so that the source need not wait for the network's round trip.
constexpr size_t kAhead = 4;
/// How much one stream receives or sends before the others of its thread get their turn.
constexpr uint64_t kTurn = uint64_t{4} << 20;
/// For bytes of dropped reads.
constexpr size_t kScratch = size_t{256} << 10;
static_assert(kPiece <= kLargestPiece && kAhead <= kMostRequests, "what a source accepts");

}  // namespace

ReadStream::ReadStream(EventLoop& loop, UniqueFd socket, std::string peer, std::shared_ptr<Queue> queue, OnLost on_lost)
    : loop_(loop),
      socket_(std::move(socket)),
      peer_(std::move(peer)),
      queue_(std::move(queue)),
      on_lost_(std::move(on_lost)) {}

void ReadStream::Start() {
  try {
    // Kept by the handler until End().
    watch_ =
        loop_.Watch(socket_.get(), EPOLLIN, [self = shared_from_this()](uint32_t events) { self->OnReady(events); });
  } catch (const Failure& failure) {
    return Lose(failure.what());
  }
  Pump();
}

void ReadStream::Pump() {
  if (!watch_) return;
  while (awaited_.size() < kAhead) {
    auto taken = queue_->Take(kPiece);
    if (!taken) break;
    const StreamRequest request{taken->segment->token, taken->piece.source_offset,
                                static_cast<uint32_t>(taken->piece.bytes), 0};
    const auto* const bytes = reinterpret_cast<const uint8_t*>(&request);
    outgoing_.insert(outgoing_.end(), bytes, bytes + sizeof(request));
    awaited_.push_back({std::move(*taken)});
  }
  try {
    SendRequests();
  } catch (const Failure& failure) {
    Lose(failure.what());
  }
}

void ReadStream::SendRequests() {
  if (outgoing_.empty()) return;
  const ssize_t sent = send(socket_.get(), outgoing_.data(), outgoing_.size(), MSG_NOSIGNAL);
  // An error shows again when receiving, with a better message.
  if (sent > 0) outgoing_.erase(outgoing_.begin(), outgoing_.begin() + sent);
  loop_.Change(watch_, EPOLLIN | (outgoing_.empty() ? 0u : EPOLLOUT));
}

void ReadStream::Drop(const std::shared_ptr<Read>& read) {
  for (Awaited& each : awaited_) {
    if (each.taken.read != read || each.is_dropped) continue;
    each.is_dropped = true;
    read->Release();
  }
}

void ReadStream::End() {
  watch_.Reset();
  socket_ = UniqueFd();
  for (Awaited& each : std::exchange(awaited_, {})) {
    if (!each.is_dropped) each.taken.read->Release();
  }
}

void ReadStream::OnReady(uint32_t events) {
  const auto self = shared_from_this();
  try {
    if ((events & EPOLLOUT) != 0) SendRequests();
    if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) Receive();
  } catch (...) {
    Lose(CurrentFailure().what());
  }
}

void ReadStream::Lose(const std::string& how) {
  if (!socket_) return;
  const Failure failure(code::kPeerLost, peer_ + " is lost: " + how);
  for (const Awaited& each : awaited_) each.taken.read->Fail(failure);
  End();
  on_lost_(how);
}

void ReadStream::Receive() {
  for (uint64_t turn = 0; turn < kTurn;) {
    if (part_ == Part::kHeader) {
      if (!ReceiveStructure(header_)) return;
      CheckHeader();
    } else if (part_ == Part::kData) {
      const uint64_t before = received_;
      if (!ReceiveData()) return;
      turn += received_ - before;
      if (received_ < header_.bytes) continue;
      part_ = Part::kTrailer;
      received_ = 0;
    } else {
      if (!ReceiveStructure(trailer_)) return;
      Settle(static_cast<Verdict>(trailer_.verdict));
    }
  }
}

template <class Structure>
bool ReadStream::ReceiveStructure(Structure& structure) {
  received_ += ReceiveBytes(reinterpret_cast<uint8_t*>(&structure) + received_, sizeof(structure) - received_);
  if (received_ < sizeof(structure)) return false;
  received_ = 0;
  return true;
}

void ReadStream::CheckHeader() {
  const auto verdict = static_cast<Verdict>(header_.verdict);
  if (awaited_.empty()) throw Failure("EPROTO", "it sent what nobody asked for");
  if (verdict != Verdict::kGood) return Settle(verdict);
  if (header_.bytes != awaited_.front().taken.piece.bytes) {
    throw Failure("EPROTO", "it sent another number of bytes than it was asked for");
  }
  part_ = Part::kData;
}

bool ReadStream::ReceiveData() {
  const Awaited& first = awaited_.front();
  const uint64_t left = header_.bytes - received_;
  size_t got;
  if (first.is_dropped) {
    scratch_.resize(kScratch);
    got = ReceiveBytes(scratch_.data(), std::min<uint64_t>(left, kScratch));
  } else {
    const Read& read = *first.taken.read;
    got = ReceiveBytes(read.destination()->data() + first.taken.piece.destination_offset + received_, left);
  }
  received_ += got;
  return got > 0;
}

size_t ReadStream::ReceiveBytes(void* bytes, size_t count) {
  const ssize_t got = recv(socket_.get(), bytes, count, 0);
  if (got > 0) return static_cast<size_t>(got);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (got < 0) throw Failure::System(errno, "a stream ended");
  throw Failure(code::kPeerLost, "a stream ended");
}

void ReadStream::Settle(Verdict verdict) {
  const Awaited first = std::move(awaited_.front());
  awaited_.pop_front();
  part_ = Part::kHeader;
  received_ = 0;
  const std::shared_ptr<Read>& read = first.taken.read;
  if (verdict == Verdict::kOutOfRange) {
    read->Fail(Failure(code::kOutOfRange, "a read lies outside the segment of " + peer_));
  } else if (verdict != Verdict::kGood) {
    read->Fail(Failure(code::kWithdrawn, peer_ + " no longer exposes the segment"));
  }
  if (first.is_dropped) {
    // Released before.
  } else if (verdict == Verdict::kGood) {
    read->Complete(first.taken.piece);
  } else {
    read->Release();
  }
  Pump();
}

template <class Action>
void TcpCarrier::ForEachStream(Action action) {
  for (const auto& stream : streams_) stream->loop().Post([stream, action] { action(*stream); });
}

void TcpCarrier::Begin(std::shared_ptr<Read> read, std::shared_ptr<RemoteSegment> segment) {
  read->Begin();
  queue_->Add(std::move(read), std::move(segment));
  ForEachStream([](ReadStream& stream) { stream.Pump(); });
}

void TcpCarrier::Drop(const std::shared_ptr<Read>& read) {
  ForEachStream([read](ReadStream& stream) { stream.Drop(read); });
}

void TcpCarrier::End() {
  ForEachStream([](ReadStream& stream) { stream.End(); });
}

void ServedStream::Start(EventLoop& loop, UniqueFd socket, ConnectionQuota::Slot slot, const ExposureTable& exposures) {
  std::shared_ptr<ServedStream> stream(new ServedStream(loop, std::move(socket), std::move(slot), exposures));
  stream->watch_ = loop.Watch(stream->socket_.get(), EPOLLIN, [stream](uint32_t events) { stream->OnReady(events); });
}

ServedStream::ServedStream(EventLoop& loop, UniqueFd socket, ConnectionQuota::Slot slot, const ExposureTable& exposures)
    : loop_(loop), socket_(std::move(socket)), slot_(std::move(slot)), exposures_(exposures) {}

void ServedStream::OnReady(uint32_t events) {
  const auto self = shared_from_this();
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) return End();
  try {
    if (((events & EPOLLIN) != 0 && !ReceiveRequests()) || !SendReplies()) return End();
    loop_.Change(watch_, EPOLLIN | (replies_.empty() ? 0u : EPOLLOUT));
  } catch (const std::exception&) {
    End();
  }
}

bool ServedStream::ReceiveRequests() {
  for (;;) {
    const ssize_t got = recv(socket_.get(), incoming_ + received_, sizeof(incoming_) - received_, 0);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    received_ += static_cast<size_t>(got);
    if (received_ < sizeof(incoming_)) continue;
    received_ = 0;
    StreamRequest request;
    std::memcpy(&request, incoming_, sizeof(request));
    if (replies_.size() >= kMostRequests || request.bytes == 0 || request.bytes > kLargestPiece) return false;
    replies_.push_back(ReplyTo(request));
  }
}

ServedStream::Reply ServedStream::ReplyTo(const StreamRequest& request) const {
  const auto refusal = [](Verdict verdict) { return Reply{nullptr, {static_cast<uint32_t>(verdict), 0}, 0}; };
  std::shared_ptr<Exposure> exposure = exposures_.Find(request.token);
  if (!exposure || !exposure->is_open()) return refusal(Verdict::kWithdrawn);
  const uint64_t size = exposure->mapping().bytes();
  if (request.offset > size || request.bytes > size - request.offset) return refusal(Verdict::kOutOfRange);
  return {std::move(exposure), {static_cast<uint32_t>(Verdict::kGood), request.bytes}, request.offset};
}

bool ServedStream::SendReplies() {
  blocked_ = false;
  for (uint64_t turn = 0; !replies_.empty() && !blocked_ && turn < kTurn;) {
    const Reply& reply = replies_.front();
    const uint64_t data_end = sizeof(reply.header) + reply.header.bytes;
    const uint64_t before = sent_;
    if (sent_ < sizeof(reply.header)) {
      if (!SendPart(reinterpret_cast<const uint8_t*>(&reply.header) + sent_, sizeof(reply.header) - sent_,
                    reply.exposure != nullptr)) {
        return false;
      }
    } else if (sent_ < data_end) {
      const uint8_t* const data = reply.exposure->mapping().data() + reply.offset;
      if (!SendPart(data + (sent_ - sizeof(reply.header)), data_end - sent_, true)) return false;
      const bool is_good = sent_ == data_end && reply.exposure->is_open();
      trailer_ = {static_cast<uint32_t>(is_good ? Verdict::kGood : Verdict::kWithdrawn)};
    } else if (reply.exposure && sent_ < data_end + sizeof(trailer_)) {
      const uint64_t at = sent_ - data_end;
      // In a packet with the next header: a reader who is woken for the trailer alone finds nothing else, and sleeps again.
      if (!SendPart(reinterpret_cast<const uint8_t*>(&trailer_) + at, sizeof(trailer_) - at, replies_.size() > 1)) {
        return false;
      }
    } else {
      replies_.pop_front();
      sent_ = 0;
      continue;
    }
    turn += sent_ - before;
  }
  return true;
}

bool ServedStream::SendPart(const void* bytes, size_t count, bool more_follows) {
  const ssize_t sent = send(socket_.get(), bytes, count, MSG_NOSIGNAL | (more_follows ? MSG_MORE : 0));
  if (sent < 0) {
    blocked_ = errno == EAGAIN || errno == EINTR;
    return blocked_;
  }
  sent_ += static_cast<uint64_t>(sent);
  return true;
}

void ServedStream::End() {
  watch_.Reset();
  socket_ = UniqueFd();
  replies_.clear();
}

}  // namespace weightcast
