#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "fabric/control.h"
#include "fabric/read.h"
#include "fabric/threads.h"
#include "system/event_loop.h"

namespace weightcast {

/// Another rank's fabric, to read from. Its control connection is the sign of life: when that ends, so do all reads.
///
/// Read, Cancel and Close may be called from any thread; all else happens on the control loop.
class Peer : public std::enable_shared_from_this<Peer> {
 public:
  struct Request {
    /// Chosen by the caller; no other read of this peer has it.
    uint64_t number = 0;
    Token token{};
    std::vector<ReadRange> ranges;
    std::shared_ptr<Mapping> destination;
    /// May be null; the caller keeps it alive until `done`.
    double* progress = nullptr;
    double timeout_milliseconds = 0;
    Done done;
  };

  /// `name` is what failures call it; `why_not_rdma` says why a faster way was not taken.
  Peer(std::shared_ptr<FabricThreads> threads, std::string name, std::unique_ptr<FrameSocket> control,
       std::unique_ptr<Carrier> carrier, std::string why_not_rdma = "");
  /// Begins to receive on the control connection. Called once, on the loop's thread.
  void Start();
  /// Sets the callback for its end, on the loop's thread.
  void OnEnd(std::function<void()> on_end) { on_end_ = std::move(on_end); }

  const std::string& name() const { return name_; }
  const char* kind() const { return kind_; }
  /// Empty unless bytes come over TCP though any way was welcome.
  const std::string& why_not_rdma() const { return why_not_rdma_; }

  /// Throws OUT_OF_RANGE, EACCES or OVERLOADED, and then has submitted nothing.
  void Submit(Request request);
  /// Fails a read with ABORTED; does nothing if it has ended.
  void Cancel(uint64_t number);
  /// Fails all reads with ABORTED and ends the connection.
  void Close();

  /// On the loop's thread, or when it has stopped: the first cause counts.
  void End(const Failure& failure);
  /// A part of the connection has ended.
  void Lose(const std::string& how);

 private:
  static constexpr int kMostReads = 1024;

  struct Running {
    Token token;
    std::shared_ptr<Read> read;
    EventLoop::Handle deadline;
  };
  struct Attachment {
    /// Null until the peer has answered.
    std::shared_ptr<RemoteSegment> segment;
    bool asked = false;
    std::vector<std::shared_ptr<Read>> waiting;
  };

  void Run(uint64_t number, const Token& token, double timeout, const std::shared_ptr<Read>& read);
  void Fail(uint64_t number, const Failure& failure);
  void Begin(const std::shared_ptr<Read>& read, const std::shared_ptr<RemoteSegment>& segment);
  void OnFrame(const FrameSocket::Frame& frame);
  void OnAttached(const FrameSocket::Frame& frame);
  void OnWithdrawn(const Token& token);
  Failure WithdrawnFailure() const;

  const std::shared_ptr<FabricThreads> threads_;
  EventLoop& loop_;
  const std::string name_;
  std::unique_ptr<FrameSocket> control_;
  const std::unique_ptr<Carrier> carrier_;
  const char* const kind_;
  const std::string why_not_rdma_;
  std::atomic<int> reads_{0};
  std::function<void()> on_end_;

  std::optional<Failure> ended_;
  std::unordered_map<uint64_t, Running> running_;
  std::map<Token, Attachment> attachments_;
  /// Which token each of the requests asks for that have no answer yet.
  std::unordered_map<uint32_t, Token> requests_;
  uint32_t last_request_ = 0;
};

}  // namespace weightcast
