#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "fabric/authentication.h"
#include "system/bytes.h"

namespace weightcast {

using BootId = std::array<uint8_t, 16>;
using Gid = std::array<uint8_t, 16>;

/// One port of an RDMA device, as its peers have to know it.
struct RdmaPortAddress {
  static constexpr uint8_t kInfiniBand = 1;
  static constexpr uint8_t kEthernet = 2;

  std::string device;
  uint8_t port = 0;
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
  /// Throws EPROTO.
  static FabricAddress Decoded(const Bytes& bytes);
};

/// Of the running kernel; zero bytes if /proc does not tell.
BootId ThisBoot();

}  // namespace weightcast
