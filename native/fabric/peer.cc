#include "fabric/peer.h"

#include <algorithm>
#include <utility>

#include "fabric/control.h"

namespace weightcast {

Peer::Peer(std::shared_ptr<FabricThreads> threads, std::string name, std::unique_ptr<FrameSocket> control,
           std::unique_ptr<Carrier> carrier, std::string why_not_rdma)
    : threads_(std::move(threads)),
      loop_(threads_->control),
      name_(std::move(name)),
      control_(std::move(control)),
      carrier_(std::move(carrier)),
      kind_(carrier_->kind()),
      why_not_rdma_(std::move(why_not_rdma)) {}

void Peer::Start() {
  // The socket goes with this, or before it.
  control_->Start([this](const FrameSocket::Frame& frame) { OnFrame(frame); },
                  [this](const Failure& failure) { Lose(failure.what()); });
}

void Peer::Submit(Request request) {
  if (reads_.fetch_add(1) >= kMostReads) {
    reads_.fetch_sub(1);
    throw Failure(code::kOverloaded, "more than " + std::to_string(kMostReads) + " reads of " + name_ + " at a time");
  }
  std::shared_ptr<Read> read;
  const auto done = [self = shared_from_this(), number = request.number,
                     done = std::move(request.done)](const Outcome& outcome) {
    self->reads_.fetch_sub(1);
    done(outcome);
    self->loop_.Post([self, number] { self->running_.erase(number); });
  };
  try {
    read = std::make_shared<Read>(std::move(request.ranges), std::move(request.destination), request.progress, done);
  } catch (...) {
    reads_.fetch_sub(1);
    throw;
  }
  const bool posted =
      loop_.Post([self = shared_from_this(), number = request.number, token = request.token,
                  timeout = request.timeout_milliseconds, read] { self->Run(number, token, timeout, read); });
  if (!posted) read->Fail(Failure(code::kClosed, "the fabric is closed"));
}

void Peer::Cancel(uint64_t number) {
  loop_.Post([self = shared_from_this(), number] {
    self->Fail(number, Failure(code::kAborted, "a read of " + self->name_ + " was cancelled"));
  });
}

void Peer::Close() {
  loop_.Post([self = shared_from_this()] {
    self->End(Failure(code::kAborted, "the connection to " + self->name_ + " was closed here"));
  });
}

void Peer::Run(uint64_t number, const Token& token, double timeout, const std::shared_ptr<Read>& read) {
  if (ended_) return read->Fail(*ended_);
  Running& running = running_[number];
  running.token = token;
  running.read = read;
  running.deadline = loop_.At(MonotonicMilliseconds() + timeout, [this, number, timeout] {
    const auto found = running_.find(number);
    if (found == running_.end()) return;
    Fail(number, Failure(code::kDeadline, "a read of " + name_ + " took longer than " +
                                              std::to_string(static_cast<uint64_t>(timeout)) + " ms; " +
                                              found->second.read->ProgressText()));
  });
  Attachment& attachment = attachments_[token];
  if (attachment.segment) return Begin(read, attachment.segment);
  // Those that have reached their deadline meanwhile need not be remembered.
  auto& waiting = attachment.waiting;
  waiting.erase(std::remove_if(waiting.begin(), waiting.end(), [](const auto& each) { return each->has_failed(); }),
                waiting.end());
  waiting.push_back(read);
  if (std::exchange(attachment.asked, true)) return;
  const uint32_t request = ++last_request_;
  requests_[request] = token;
  ByteWriter fields;
  fields.Put(request);
  fields.Put(token);
  try {
    control_->Send(frame::kAttach, fields.Take());
  } catch (const Failure& failure) {
    Lose(failure.what());
  }
}

void Peer::Fail(uint64_t number, const Failure& failure) {
  const auto found = running_.find(number);
  if (found == running_.end()) return;
  const std::shared_ptr<Read> read = found->second.read;
  read->Fail(failure);
  carrier_->Drop(read);
}

void Peer::Begin(const std::shared_ptr<Read>& read, const std::shared_ptr<RemoteSegment>& segment) {
  try {
    read->CheckSource(segment->bytes, name_);
    carrier_->Begin(read, segment);
  } catch (const Failure& failure) {
    read->Fail(failure);
  }
}

void Peer::OnFrame(const FrameSocket::Frame& frame) {
  const auto self = shared_from_this();
  if (frame.type == frame::kAttached) return OnAttached(frame);
  if (frame.type != frame::kWithdrawn) throw Failure("EPROTO", "it sent a message of an unknown type");
  ByteReader fields(frame.fields);
  const Token token = fields.GetArray<16>();
  fields.ExpectEnd();
  OnWithdrawn(token);
}

void Peer::OnAttached(const FrameSocket::Frame& frame) {
  ByteReader fields(frame.fields);
  const auto request = requests_.find(fields.Get<uint32_t>());
  if (request == requests_.end()) throw Failure("EPROTO", "it answered what nobody asked");
  const Token token = request->second;
  requests_.erase(request);
  const auto verdict = static_cast<Verdict>(fields.Get<uint8_t>());
  const auto segment = std::make_shared<RemoteSegment>();
  segment->token = token;
  segment->bytes = fields.Get<uint64_t>();
  std::optional<Failure> failure;
  if (verdict == Verdict::kFull) {
    failure = Failure(code::kOverloaded, name_ + " gives out no more segments on one connection");
  } else if (verdict != Verdict::kGood) {
    failure = WithdrawnFailure();
  } else {
    try {
      carrier_->Complete(*segment, fields, *control_);
    } catch (const Failure& thrown) {
      failure = thrown;
    }
  }
  Attachment& attachment = attachments_[token];
  const auto waiting = std::exchange(attachment.waiting, {});
  if (failure) {
    attachments_.erase(token);
    for (const auto& read : waiting) read->Fail(*failure);
    return;
  }
  attachment.segment = segment;
  for (const auto& read : waiting) Begin(read, segment);
}

void Peer::OnWithdrawn(const Token& token) {
  const auto attachment = attachments_.find(token);
  if (attachment == attachments_.end()) return;
  attachments_.erase(attachment);
  for (const auto& [number, running] : running_) {
    if (running.token != token) continue;
    running.read->Fail(WithdrawnFailure());
    carrier_->Drop(running.read);
  }
}

Failure Peer::WithdrawnFailure() const { return Failure(code::kWithdrawn, name_ + " no longer exposes the segment"); }

void Peer::Lose(const std::string& how) { End(Failure(code::kPeerLost, name_ + " is lost: " + how)); }

void Peer::End(const Failure& failure) {
  if (ended_) return;
  ended_ = failure;
  const auto self = shared_from_this();
  for (const auto& [number, running] : running_) running.read->Fail(failure);
  carrier_->End();
  attachments_.clear();
  requests_.clear();
  control_.reset();
  if (const auto on_end = std::exchange(on_end_, nullptr)) on_end();
}

}  // namespace weightcast
