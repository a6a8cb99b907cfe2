#include "fabric/served_stream.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace weightcast {
namespace {

/// How much one stream sends before the others of its thread get their turn.
constexpr uint64_t kTurn = uint64_t{4} << 20;

}  // namespace

void ServedStream::Start(EventLoop& loop, UniqueFd socket, Places::Place place, const ExposureTable& exposures) {
  std::shared_ptr<ServedStream> stream(new ServedStream(loop, std::move(socket), std::move(place), exposures));
  stream->watch_ = loop.Watch(stream->socket_.get(), EPOLLIN, [stream](uint32_t events) { stream->OnReady(events); });
}

ServedStream::ServedStream(EventLoop& loop, UniqueFd socket, Places::Place place, const ExposureTable& exposures)
    : loop_(loop), socket_(std::move(socket)), place_(std::move(place)), exposures_(exposures) {}

void ServedStream::OnReady(uint32_t events) {
  const auto self = shared_from_this();
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) return End();
  try {
    if (((events & EPOLLIN) != 0 && !ReceiveRequests()) || !SendReplies()) return End();
    loop_.Change(watch_, EPOLLIN | (replies_.empty() ? 0u : EPOLLOUT));
  } catch (const Failure&) {
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
  const auto refusal = [](Verdict verdict) {
    return Reply{nullptr, {static_cast<uint32_t>(verdict), 0}, 0};
  };
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
      if (!SendPart(reinterpret_cast<const uint8_t*>(&trailer_) + at, sizeof(trailer_) - at, false)) return false;
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
