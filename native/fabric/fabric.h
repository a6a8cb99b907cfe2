#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "fabric/acceptor.h"
#include "fabric/address.h"
#include "fabric/connector.h"
#include "fabric/exposure.h"
#include "fabric/peer.h"
#include "fabric/threads.h"
#include "memory/thread_pool.h"

namespace weightcast {

struct FabricOptions {
  /// Of the cluster; at least 16 bytes.
  Bytes secret;
  /// Numeric addresses; empty for all.
  std::vector<std::string> listen_addresses;
  /// 0 for any that is free.
  uint16_t port = 0;
  /// Numeric addresses at which peers find this host; empty for those of its interfaces.
  std::vector<std::string> advertised_addresses;
  /// Threads that move bytes over TCP and RDMA.
  unsigned data_threads = 1;
  /// To one peer.
  unsigned streams = 1;
  /// RDMA ports to use: device and number. None for no RDMA.
  std::vector<std::pair<std::string, uint8_t>> rdma_ports;
  VerbsParameters verbs;
  /// Copies what peers of the same host expose.
  std::shared_ptr<ThreadPool> pool;
};

/// One-sided reads between the memory of ranks: exposes mappings to peers, and connects to peers to read what they
/// expose. Reads of this process's memory are served by native threads alone.
///
/// Expose, Withdraw, Connect, CancelConnect and Close are called from one thread at a time. The callbacks given to them
/// run on a native thread, and must not call back into the fabric.
class Fabric {
 public:
  using Exposed = std::function<void(std::optional<Failure>, std::shared_ptr<Exposure>)>;

  explicit Fabric(FabricOptions options);
  /// As Close().
  ~Fabric();
  Fabric(const Fabric&) = delete;
  Fabric& operator=(const Fabric&) = delete;

  /// FabricAddress, encoded.
  const Bytes& address() const { return address_; }

  /// All throw CLOSED after Close().
  void Expose(std::shared_ptr<Mapping> mapping, const Exposed& exposed);
  /// When `done` is called, no read that is not complete yet will succeed.
  void Withdraw(std::shared_ptr<Exposure> exposure, const Done& done);
  /// `number` is for CancelConnect.
  void Connect(uint64_t number, Connector::Call call, Connector::Done done);
  void CancelConnect(uint64_t number);
  /// Ends all reads and connections with ABORTED and withdraws all exposures; waits for the threads. May be called
  /// twice.
  void Close();

 private:
  void Listen(const FabricOptions& options);
  void CheckOpen() const;
  void Adopt(const std::shared_ptr<Peer>& peer);
  /// A failure that no connection handled itself: which one it was is not known, so all end.
  void OnThreadError(const Failure& failure);
  void EndConnections(const Failure& failure);

  std::atomic<bool> closed_{false};
  ConnectContext context_;
  ExposureTable exposures_;
  Bytes address_;

  /// The rest belongs to the control loop.
  std::unique_ptr<Server> server_;
  std::map<uint64_t, std::shared_ptr<Connector>> connectors_;
  /// Keeps each peer until it has ended, so that it goes on this thread.
  std::set<std::shared_ptr<Peer>> peers_;
};

}  // namespace weightcast
