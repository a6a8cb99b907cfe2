#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "system/base.h"

namespace weightcast {

/// Names a fabric among all others: random, new for each one that is opened.
using FabricId = std::array<uint8_t, 16>;
using BootId = std::array<uint8_t, 16>;
using Gid = std::array<uint8_t, 16>;

/// One port of an RDMA device, as its peers have to know it.
struct RdmaPortAddress {
  std::string device;
  uint8_t port = 0;
  /// ibv::kLinkLayerInfiniBand or ibv::kLinkLayerEthernet.
  uint8_t link_layer = 0;
  /// enum ibv_mtu: 1 is 256 bytes, 5 is 4096.
  uint8_t mtu = 0;
  uint16_t lid = 0;
  Gid gid{};
};

/// How the ranks of a cluster reach a fabric. It holds no secret.
struct FabricAddress {
  FabricId fabric{};
  /// Of the kernel: a fabric of another boot is not on this host. That it is on this host takes more; see Endpoint.
  BootId boot{};
  uint16_t port = 0;
  std::vector<std::string> addresses;
  std::vector<RdmaPortAddress> rdma;

  Bytes Encoded() const;
  /// Throws EPROTO, also for an address that is not a numeric IP address.
  static FabricAddress Decoded(const Bytes& bytes);
};

/// Of the running kernel; zero bytes if /proc does not tell.
BootId ThisBoot();

template <class Array>
Array RandomArray() {
  Array array;
  FillRandom(array.data(), array.size());
  return array;
}

/// Where a stream socket listens: an IP address with a port, or an abstract Unix socket.
class Endpoint {
 public:
  /// `address` is numeric IPv4 or IPv6, a link-local one with its interface: "fe80::1%eth0". Throws EINVAL, or ENODEV
  /// for an interface that this host does not have.
  static Endpoint Ip(const std::string& address, uint16_t port);
  /// The socket by which a fabric is reached on its own host. It lives in the kernel, in the network namespace of its
  /// process, and ends with it: a caller that gets an answer there is on the same host, and a killed process
  /// leaves nothing behind.
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

/// An IPv4 or IPv6 address in figures, with or without an interface, not the name of a host.
bool IsNumericIp(const std::string& address);

/// The port that a listening socket got.
uint16_t PortOf(const UniqueFd& socket);

/// The numeric addresses of this host's interfaces that are up, for others to connect to: loopback only if there is
/// nothing else, and no link-local IPv6 addresses, which mean nothing on another host.
std::vector<std::string> HostAddresses();

/// For a connection over which this process waits for a peer: the kernel's probes end it within about four seconds of
/// silence, so that a host that vanished is noticed without traffic.
void DetectDeadPeer(int socket);
/// For a connection on which this process serves: ends it when a peer has taken nothing for 20
/// seconds.
void DetectStalledReader(int socket);

}  // namespace weightcast
