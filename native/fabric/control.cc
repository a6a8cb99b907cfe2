#include "fabric/control.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace weightcast {
namespace {

constexpr size_t kHead = sizeof(uint32_t) + 1;
constexpr uint32_t kLargestFrame = 64 << 10;
constexpr size_t kLongestQueue = 1024;
constexpr size_t kMostDescriptors = 8;
constexpr size_t kReceiveAtOnce = 64 << 10;

}  // namespace

void FrameSocket::Start(OnFrame on_frame, OnEnd on_end) {
  on_frame_ = std::move(on_frame);
  on_end_ = std::move(on_end);
  if (watch_) return;
  watch_ = loop_.Watch(socket_.get(), EPOLLIN, [this](uint32_t events) { OnReady(events); });
}

void FrameSocket::Send(uint8_t type, const Bytes& fields, std::vector<int> descriptors) {
  Outgoing outgoing;
  const auto length = static_cast<uint32_t>(fields.size());
  if (length > kLargestFrame) throw Failure("EMSGSIZE", "a message of the fabric is too long to be sent");
  if (outgoing_.size() >= kLongestQueue) throw Failure(code::kOverloaded, "a peer does not take its messages");
  outgoing.bytes.resize(kHead + length);
  std::memcpy(outgoing.bytes.data(), &length, sizeof(length));
  outgoing.bytes[sizeof(length)] = type;
  std::copy(fields.begin(), fields.end(), outgoing.bytes.begin() + kHead);
  for (const int descriptor : descriptors) {
    outgoing.descriptors.emplace_back(fcntl(descriptor, F_DUPFD_CLOEXEC, 0));
    if (!outgoing.descriptors.back()) throw Failure::System(errno, "cannot hand on a descriptor");
  }
  outgoing_.push_back(std::move(outgoing));
  // At once, but through the loop: a caller does not expect the connection to end in here.
  loop_.Change(watch_, EPOLLIN | EPOLLOUT);
}

UniqueFd FrameSocket::TakeDescriptor() {
  if (descriptors_.empty()) throw Failure("EPROTO", "a message of the fabric came without its descriptor");
  UniqueFd descriptor = std::move(descriptors_.front());
  descriptors_.pop_front();
  return descriptor;
}

void FrameSocket::OnReady(uint32_t events) {
  const std::shared_ptr<bool> alive = alive_;
  try {
    if ((events & EPOLLOUT) != 0) Flush();
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
    Receive();
    HandleFrames();
  } catch (...) {
    const Failure failure = CurrentFailure();
    if (!*alive) return;
    watch_.Reset();
    // Copied: the handler may destroy this.
    const OnEnd on_end = on_end_;
    on_end(failure);
  }
}

void FrameSocket::Flush() {
  while (!outgoing_.empty()) {
    Outgoing& first = outgoing_.front();
    iovec part{first.bytes.data() + first.sent, first.bytes.size() - first.sent};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(kMostDescriptors * sizeof(int))] = {};
    if (!first.descriptors.empty()) {
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(first.descriptors.size() * sizeof(int));
      cmsghdr* const header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(first.descriptors.size() * sizeof(int));
      for (size_t index = 0; index < first.descriptors.size(); index++) {
        const int descriptor = first.descriptors[index].get();
        std::memcpy(CMSG_DATA(header) + index * sizeof(int), &descriptor, sizeof(int));
      }
    }
    const ssize_t sent = sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EAGAIN || errno == EINTR) return;
      throw Failure::System(errno, "its connection ended");
    }
    // They go with the first byte.
    first.descriptors.clear();
    first.sent += static_cast<size_t>(sent);
    if (first.sent == first.bytes.size()) outgoing_.pop_front();
  }
  loop_.Change(watch_, EPOLLIN);
}

void FrameSocket::Receive() {
  const size_t before = incoming_.size();
  incoming_.resize(before + kReceiveAtOnce);
  iovec part{incoming_.data() + before, kReceiveAtOnce};
  alignas(cmsghdr) char control[CMSG_SPACE(kMostDescriptors * sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t got = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
  incoming_.resize(before + static_cast<size_t>(got > 0 ? got : 0));
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got < 0) throw Failure::System(errno, "its connection ended");
  KeepDescriptors(message);
  if (got == 0) throw Failure(code::kPeerLost, "its connection ended");
}

void FrameSocket::KeepDescriptors(msghdr& message) {
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t index = 0; index < count; index++) {
      int descriptor;
      std::memcpy(&descriptor, CMSG_DATA(header) + index * sizeof(int), sizeof(int));
      descriptors_.emplace_back(descriptor);
    }
  }
  if (descriptors_.size() > kMostDescriptors) throw Failure("EPROTO", "it sent descriptors that nobody asked for");
}

void FrameSocket::HandleFrames() {
  const std::shared_ptr<bool> alive = alive_;
  size_t at = 0;
  while (*alive && incoming_.size() - at >= kHead) {
    uint32_t length;
    std::memcpy(&length, incoming_.data() + at, sizeof(length));
    if (length > kLargestFrame) throw Failure("EPROTO", "it sent a message that is too long");
    if (incoming_.size() - at - kHead < length) break;
    const auto first = incoming_.begin() + static_cast<ptrdiff_t>(at + kHead);
    const Frame frame{incoming_[at + sizeof(length)], Bytes(first, first + length)};
    at += kHead + length;
    const OnFrame on_frame = on_frame_;
    on_frame(frame);
  }
  if (*alive) incoming_.erase(incoming_.begin(), incoming_.begin() + static_cast<ptrdiff_t>(at));
}

}  // namespace weightcast
