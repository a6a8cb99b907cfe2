#include "fabric/dialler.h"

#include <utility>

#include "system/clock.h"

namespace weightcast {
namespace {

constexpr double kHeadStartMilliseconds = 250;

}  // namespace

std::shared_ptr<Dialler> Dialler::Start(EventLoop& loop, const Greeter::Credentials& credentials, Call call,
                                        Done done) {
  std::shared_ptr<Dialler> dialler(new Dialler(loop, credentials, std::move(call), std::move(done)));
  dialler->TryNext();
  return dialler;
}

Dialler::Dialler(EventLoop& loop, const Greeter::Credentials& credentials, Call call, Done done)
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
    attempts_.push_back(Greeter::Dial(loop_, endpoint.Connect(), credentials_, call_.target, call_.purpose, peer,
                                      [self = shared_from_this(), &endpoint](auto failure, Greeter::Greeted greeted) {
                                        self->OnAttempt(endpoint, std::move(failure), std::move(greeted.socket));
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
    const bool is_stranger = worst_->code() == code::kUnauthenticated;
    return Finish(Failure(is_stranger ? code::kUnauthenticated : code::kPeerLost, failures_), UniqueFd(), endpoint);
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
