#include "fabric/greeter.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

namespace weightcast {

std::shared_ptr<Greeter> Greeter::Dial(EventLoop& loop, UniqueFd socket, const Credentials& credentials,
                                       const FabricId& target, Purpose purpose, std::string peer, Done done) {
  std::shared_ptr<Greeter> greeter(
      new Greeter(loop, std::move(socket), credentials, std::move(peer), std::move(done)));
  greeter->hello_ = {purpose, target, RandomArray<Nonce>()};
  greeter->Begin(Step::kConnecting);
  return greeter;
}

std::shared_ptr<Greeter> Greeter::Answer(EventLoop& loop, UniqueFd socket, const Credentials& credentials, Done done) {
  std::shared_ptr<Greeter> greeter(
      new Greeter(loop, std::move(socket), credentials, "a stranger", std::move(done)));
  greeter->Begin(Step::kReceivingHello);
  return greeter;
}

Greeter::Greeter(EventLoop& loop, UniqueFd socket, const Credentials& credentials, std::string peer, Done done)
    : loop_(loop),
      socket_(std::move(socket)),
      credentials_(credentials),
      peer_(std::move(peer)),
      done_(std::move(done)) {}

void Greeter::Begin(Step step) {
  step_ = step;
  const uint32_t events = step == Step::kConnecting ? EPOLLOUT : EPOLLIN;
  watch_ = loop_.Watch(socket_.get(), events, [self = shared_from_this()](uint32_t) { self->OnReady(); });
}

void Greeter::Cancel() {
  done_ = nullptr;
  watch_.Reset();
  socket_ = UniqueFd();
}

void Greeter::OnReady() {
  // Keeps itself: what is called below may let go of it.
  const auto self = shared_from_this();
  try {
    GoOn();
  } catch (const Failure& failure) {
    Finish(failure);
  }
}

void Greeter::GoOn() {
  if (step_ == Step::kConnecting) FinishConnecting();
  if (step_ == Step::kSending) {
    if (!Send()) return;
    if (finished_after_sending_) return Finish(std::nullopt);
    step_ = after_sending_;
    loop_.Change(watch_, EPOLLIN);
    return;
  }
  if (step_ == Step::kReceivingHello && Receive(Hello::kBytes)) AnswerHello();
  if (step_ == Step::kReceivingChallenge && Receive(Challenge::kBytes)) AnswerChallenge();
  if (step_ == Step::kReceivingProof && Receive(sizeof(Proof))) CheckProof();
}

void Greeter::FinishConnecting() {
  int error = 0;
  socklen_t length = sizeof(error);
  if (getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
  if (error != 0) throw Failure::System(error, "cannot connect to " + peer_);
  const auto hello = hello_.Encoded();
  out_.assign(hello.begin(), hello.end());
  step_ = Step::kSending;
  after_sending_ = Step::kReceivingChallenge;
}

bool Greeter::Send() {
  const ssize_t sent = send(socket_.get(), out_.data(), out_.size(), MSG_NOSIGNAL);
  if (sent < 0) {
    if (errno == EAGAIN || errno == EINTR) return false;
    throw Failure(code::kPeerLost, "the connection to " + peer_ + " ended in its handshake");
  }
  out_.erase(out_.begin(), out_.begin() + sent);
  return out_.empty();
}

bool Greeter::Receive(size_t count) {
  const size_t before = in_.size();
  in_.resize(count);
  const ssize_t got = recv(socket_.get(), in_.data() + before, count - before, 0);
  in_.resize(before + static_cast<size_t>(got > 0 ? got : 0));
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (got <= 0) {
    throw Failure(code::kPeerLost,
                  peer_ + " ended the connection in its handshake: it is another process, or has no room for more");
  }
  return in_.size() == count;
}

void Greeter::AnswerHello() {
  if (!Hello::Decode(in_.data(), &hello_)) throw Failure("EPROTO", "a stranger does not speak the fabric's protocol");
  if (hello_.target != credentials_.self) throw Failure("EPROTO", "a stranger asks for another fabric");
  challenge_.nonce = RandomArray<Nonce>();
  challenge_.proof = ListenerProof(credentials_.secret, hello_, challenge_.nonce);
  const auto challenge = challenge_.Encoded();
  out_.assign(challenge.begin(), challenge.end());
  in_.clear();
  step_ = Step::kSending;
  after_sending_ = Step::kReceivingProof;
  loop_.Change(watch_, EPOLLOUT);
}

void Greeter::AnswerChallenge() {
  challenge_ = Challenge::Decoded(in_.data());
  if (!SameProof(challenge_.proof, ListenerProof(credentials_.secret, hello_, challenge_.nonce))) {
    throw Failure(code::kUnauthenticated, peer_ + " does not know the secret of this cluster");
  }
  const Proof proof = DiallerProof(credentials_.secret, hello_, challenge_);
  out_.assign(proof.begin(), proof.end());
  step_ = Step::kSending;
  finished_after_sending_ = true;
  loop_.Change(watch_, EPOLLOUT);
}

void Greeter::CheckProof() {
  Proof proof;
  std::copy(in_.begin(), in_.end(), proof.begin());
  if (!SameProof(proof, DiallerProof(credentials_.secret, hello_, challenge_))) {
    throw Failure(code::kUnauthenticated, "a stranger does not know the secret of this cluster");
  }
  Finish(std::nullopt);
}

void Greeter::Finish(std::optional<Failure> failure) {
  const Done done = std::exchange(done_, nullptr);
  watch_.Reset();
  UniqueFd socket = std::move(socket_);
  if (failure) socket = UniqueFd();
  if (done) done(std::move(failure), {std::move(socket), hello_.purpose});
}

}  // namespace weightcast
