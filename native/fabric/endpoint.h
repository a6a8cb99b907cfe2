#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

#include "fabric/authentication.h"
#include "system/unique_fd.h"

namespace weightcast {

/// Where a stream socket listens: an IP address with a port, or an abstract Unix socket.
class Endpoint {
 public:
  /// `address` is numeric IPv4 or IPv6. Throws EINVAL.
  static Endpoint Ip(const std::string& address, uint16_t port);
  /// The socket by which a fabric is reached on its own host. It lives in the kernel, in the network namespace of its
  /// process, and goes with it: whoever gets an answer there is on the same host, and a killed process leaves
  /// nothing behind.
  static Endpoint Local(const FabricId& fabric);

  bool is_local() const { return storage_.ss_family == AF_UNIX; }
  /// "10.0.0.1:4000", "[fe80::1]:4000", "this host".
  std::string Text() const;

  /// A non-blocking socket that listens here.
  UniqueFd Listen() const;
  /// A non-blocking socket that is connecting to here; writable when it has.
  UniqueFd Connect() const;

 private:
  friend uint16_t PortOf(const UniqueFd& socket);
  sockaddr_storage storage_{};
  socklen_t length_ = 0;
};

/// The port that a listening socket got.
uint16_t PortOf(const UniqueFd& socket);

/// The numeric addresses of this host's interfaces that are up, for others to connect to: loopback only if there is
/// nothing else, and no link-local IPv6 addresses, which mean nothing on another host.
std::vector<std::string> HostAddresses();

/// For a connection over which this process waits for a peer: the kernel's probes end it within about four seconds of
/// silence, so that a host that vanished is noticed without traffic.
void ProbePeer(int socket);
/// For a connection on which this process serves: ends it when a peer takes nothing for so long that it is as good as
/// gone.
void BoundPatience(int socket);

}  // namespace weightcast
