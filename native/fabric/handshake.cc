#include "fabric/handshake.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "system/base.h"

namespace weightcast {
namespace {

/// The last byte is the version of the protocol.
constexpr uint8_t kMagic[] = {'w', 'e', 'i', 'g', 'h', 't', 'c', 1};

/// By Node's own OpenSSL: every Node.js exports it to addons, with its headers. This call has been the same since 0.9.
template <class... Parts>
Proof Mac(const Bytes& secret, const std::string& label, const Parts&... parts) {
  Bytes text(label.begin(), label.end());
  (text.insert(text.end(), parts.begin(), parts.end()), ...);
  Proof proof;
  unsigned length = 0;
  const uint8_t* const made = HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()), text.data(),
                                   text.size(), proof.data(), &length);
  if (made == nullptr || length != proof.size()) throw Failure("EIO", "OpenSSL has no HMAC-SHA-256");
  return proof;
}

}  // namespace

std::array<uint8_t, Hello::kBytes> Hello::Encoded() const {
  std::array<uint8_t, kBytes> bytes{};
  auto at = std::copy(std::begin(kMagic), std::end(kMagic), bytes.begin());
  *at = static_cast<uint8_t>(purpose);
  at = std::copy(target.begin(), target.end(), at + 8);
  std::copy(nonce.begin(), nonce.end(), at);
  return bytes;
}

bool Hello::Decode(const uint8_t* bytes, Hello* hello) {
  if (!std::equal(std::begin(kMagic), std::end(kMagic), bytes)) return false;
  const uint8_t* at = bytes + sizeof(kMagic);
  if (*at != static_cast<uint8_t>(Purpose::kControl) && *at != static_cast<uint8_t>(Purpose::kStream)) return false;
  hello->purpose = static_cast<Purpose>(*at);
  at += 8;
  std::copy_n(at, hello->target.size(), hello->target.begin());
  std::copy_n(at + hello->target.size(), hello->nonce.size(), hello->nonce.begin());
  return true;
}

std::array<uint8_t, Challenge::kBytes> Challenge::Encoded() const {
  std::array<uint8_t, kBytes> bytes;
  std::copy(proof.begin(), proof.end(), std::copy(nonce.begin(), nonce.end(), bytes.begin()));
  return bytes;
}

Challenge Challenge::Decoded(const uint8_t* bytes) {
  Challenge challenge;
  std::copy_n(bytes, challenge.nonce.size(), challenge.nonce.begin());
  std::copy_n(bytes + challenge.nonce.size(), challenge.proof.size(), challenge.proof.begin());
  return challenge;
}

Proof ListenerProof(const Bytes& secret, const Hello& hello, const Nonce& nonce) {
  return Mac(secret, "weightcast fabric: listener", hello.Encoded(), nonce);
}

Proof DiallerProof(const Bytes& secret, const Hello& hello, const Challenge& challenge) {
  return Mac(secret, "weightcast fabric: dialler", hello.Encoded(), challenge.Encoded());
}

bool SameProof(const Proof& one, const Proof& other) {
  uint8_t difference = 0;
  for (size_t index = 0; index < one.size(); index++) difference |= one[index] ^ other[index];
  return difference == 0;
}

std::shared_ptr<Handshake> Handshake::Dial(EventLoop& loop, UniqueFd socket, const Credentials& credentials,
                                           const FabricId& target, Purpose purpose, std::string peer, Done done) {
  std::shared_ptr<Handshake> handshake(
      new Handshake(loop, std::move(socket), credentials, std::move(peer), std::move(done)));
  handshake->hello_ = {purpose, target, RandomArray<Nonce>()};
  handshake->Begin(Step::kConnecting);
  return handshake;
}

std::shared_ptr<Handshake> Handshake::Answer(EventLoop& loop, UniqueFd socket, const Credentials& credentials,
                                             Done done) {
  std::shared_ptr<Handshake> handshake(
      new Handshake(loop, std::move(socket), credentials, "a peer", std::move(done)));
  handshake->Begin(Step::kReceivingHello);
  return handshake;
}

Handshake::Handshake(EventLoop& loop, UniqueFd socket, const Credentials& credentials, std::string peer, Done done)
    : loop_(loop),
      socket_(std::move(socket)),
      credentials_(credentials),
      peer_(std::move(peer)),
      done_(std::move(done)) {}

void Handshake::Begin(Step step) {
  step_ = step;
  const uint32_t events = step == Step::kConnecting ? EPOLLOUT : EPOLLIN;
  watch_ = loop_.Watch(socket_.get(), events, [self = shared_from_this()](uint32_t) { self->OnReady(); });
}

void Handshake::Cancel() {
  done_ = nullptr;
  watch_.Reset();
  socket_ = UniqueFd();
}

void Handshake::OnReady() {
  // What is called below may drop the last reference to this.
  const auto self = shared_from_this();
  try {
    Advance();
  } catch (...) {
    Finish(CurrentFailure());
  }
}

void Handshake::Advance() {
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

void Handshake::FinishConnecting() {
  int error = 0;
  socklen_t length = sizeof(error);
  if (getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
  if (error != 0) throw Failure::System(error, "cannot connect to " + peer_);
  const auto hello = hello_.Encoded();
  out_.assign(hello.begin(), hello.end());
  step_ = Step::kSending;
  after_sending_ = Step::kReceivingChallenge;
}

bool Handshake::Send() {
  const ssize_t sent = send(socket_.get(), out_.data(), out_.size(), MSG_NOSIGNAL);
  if (sent < 0) {
    if (errno == EAGAIN || errno == EINTR) return false;
    throw Failure(code::kPeerLost, "the connection to " + peer_ + " ended in its handshake");
  }
  out_.erase(out_.begin(), out_.begin() + sent);
  return out_.empty();
}

bool Handshake::Receive(size_t count) {
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

void Handshake::AnswerHello() {
  if (!Hello::Decode(in_.data(), &hello_)) throw Failure("EPROTO", "a peer does not speak the fabric's protocol");
  if (hello_.target != credentials_.self) throw Failure("EPROTO", "a peer asks for another fabric");
  challenge_.nonce = RandomArray<Nonce>();
  challenge_.proof = ListenerProof(credentials_.secret, hello_, challenge_.nonce);
  const auto challenge = challenge_.Encoded();
  out_.assign(challenge.begin(), challenge.end());
  in_.clear();
  step_ = Step::kSending;
  after_sending_ = Step::kReceivingProof;
  loop_.Change(watch_, EPOLLOUT);
}

void Handshake::AnswerChallenge() {
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

void Handshake::CheckProof() {
  Proof proof;
  std::copy(in_.begin(), in_.end(), proof.begin());
  if (!SameProof(proof, DiallerProof(credentials_.secret, hello_, challenge_))) {
    throw Failure(code::kUnauthenticated, "a peer does not know the secret of this cluster");
  }
  Finish(std::nullopt);
}

void Handshake::Finish(std::optional<Failure> failure) {
  const Done done = std::exchange(done_, nullptr);
  watch_.Reset();
  UniqueFd socket = std::move(socket_);
  if (failure) socket = UniqueFd();
  if (done) done(std::move(failure), {std::move(socket), hello_.purpose});
}

namespace {

constexpr double kHeadStartMilliseconds = 250;

}  // namespace

std::shared_ptr<Dialler> Dialler::Start(EventLoop& loop, const Handshake::Credentials& credentials, Call call,
                                        Done done) {
  std::shared_ptr<Dialler> dialler(new Dialler(loop, credentials, std::move(call), std::move(done)));
  dialler->TryNext();
  return dialler;
}

Dialler::Dialler(EventLoop& loop, const Handshake::Credentials& credentials, Call call, Done done)
    : loop_(loop), credentials_(credentials), call_(std::move(call)), done_(std::move(done)) {}

void Dialler::Cancel() {
  done_ = nullptr;
  timer_.Reset();
  for (const auto& attempt : attempts_) attempt->Cancel();
}

void Dialler::TryNext() {
  if (next_ == call_.endpoints.size()) return;
  const Endpoint& endpoint = call_.endpoints[next_++];
  if (next_ < call_.endpoints.size()) {
    timer_ = loop_.At(MonotonicMilliseconds() + kHeadStartMilliseconds, [self = shared_from_this()] {
      self->timer_.Reset();
      self->TryNext();
    });
  }
  const std::string peer = call_.peer + " at " + endpoint.Text();
  try {
    attempts_.push_back(
        Handshake::Dial(loop_, endpoint.Connect(), credentials_, call_.target, call_.purpose, peer,
                        [self = shared_from_this(), &endpoint](auto failure, Handshake::Authenticated authenticated) {
                          self->OnAttempt(endpoint, std::move(failure), std::move(authenticated.socket));
                        }));
  } catch (const Failure& failure) {
    OnAttempt(endpoint, Failure::System(failure.error_number(), "cannot connect to " + peer), UniqueFd());
  }
}

void Dialler::OnAttempt(const Endpoint& endpoint, std::optional<Failure> failure, UniqueFd socket) {
  if (!done_) return;
  if (!failure) return Finish(std::nullopt, std::move(socket), endpoint);
  failed_++;
  failures_ += (failures_.empty() ? "" : "; ") + std::string(failure->what());
  // A process that answers with the wrong secret says more than one that does not answer.
  if (!worst_ || failure->code() == code::kUnauthenticated) worst_ = failure;
  if (failed_ == call_.endpoints.size()) {
    const bool is_unauthenticated = worst_->code() == code::kUnauthenticated;
    return Finish(Failure(is_unauthenticated ? code::kUnauthenticated : code::kPeerLost, failures_), UniqueFd(),
                  endpoint);
  }
  if (failed_ == next_) TryNext();
}

void Dialler::Finish(std::optional<Failure> failure, UniqueFd socket, const Endpoint& endpoint) {
  const Done done = std::exchange(done_, nullptr);
  timer_.Reset();
  for (const auto& attempt : attempts_) attempt->Cancel();
  if (done) done(std::move(failure), std::move(socket), endpoint);
}

}  // namespace weightcast
