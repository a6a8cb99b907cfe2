#include "fabric/address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "fabric/control.h"
#include "system/base.h"

namespace weightcast {
namespace {

constexpr uint8_t kVersion = 1;
constexpr size_t kMostAddresses = 16;
constexpr size_t kMostRdmaPorts = 32;

template <class Items>
void PutCount(ByteWriter& writer, const Items& items, size_t most) {
  writer.Put(static_cast<uint8_t>(std::min(items.size(), most)));
}

uint8_t GetCount(ByteReader& reader, size_t most) {
  const auto count = reader.Get<uint8_t>();
  if (count > most) throw Failure("EPROTO", "the address of a fabric lists too much");
  return count;
}

}  // namespace

Bytes FabricAddress::Encoded() const {
  ByteWriter writer;
  writer.Put(kVersion);
  writer.Put(fabric);
  writer.Put(boot);
  writer.Put(port);
  PutCount(writer, addresses, kMostAddresses);
  for (size_t index = 0; index < addresses.size() && index < kMostAddresses; index++) writer.Put(addresses[index]);
  PutCount(writer, rdma, kMostRdmaPorts);
  for (size_t index = 0; index < rdma.size() && index < kMostRdmaPorts; index++) {
    const RdmaPortAddress& each = rdma[index];
    writer.Put(each.device);
    for (const uint8_t field : {each.port, each.link_layer, each.mtu}) writer.Put(field);
    writer.Put(each.lid);
    writer.Put(each.gid);
  }
  return writer.Take();
}

FabricAddress FabricAddress::Decoded(const Bytes& bytes) {
  ByteReader reader(bytes);
  if (const auto version = reader.Get<uint8_t>(); version != kVersion) {
    throw Failure("EPROTO", "the address of a fabric has version " + std::to_string(version) + ", not " +
                                std::to_string(kVersion));
  }
  FabricAddress address;
  address.fabric = reader.GetArray<16>();
  address.boot = reader.GetArray<16>();
  address.port = reader.Get<uint16_t>();
  for (uint8_t left = GetCount(reader, kMostAddresses); left > 0; left--) {
    address.addresses.push_back(reader.GetText());
    if (!IsNumericIp(address.addresses.back())) {
      throw Failure("EPROTO", "the address of a fabric names the host '" + address.addresses.back() +
                                  "', which is not a numeric IP address");
    }
  }
  for (uint8_t left = GetCount(reader, kMostRdmaPorts); left > 0; left--) {
    RdmaPortAddress each;
    each.device = reader.GetText();
    for (uint8_t* const field : {&each.port, &each.link_layer, &each.mtu}) *field = reader.Get<uint8_t>();
    each.lid = reader.Get<uint16_t>();
    each.gid = reader.GetArray<16>();
    address.rdma.push_back(std::move(each));
  }
  reader.ExpectEnd();
  return address;
}

BootId ThisBoot() {
  BootId boot{};
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen("/proc/sys/kernel/random/boot_id", "re"), std::fclose);
  if (!file) return boot;
  // 36 characters: 32 digits and dashes.
  size_t digits = 0;
  while (digits < 2 * boot.size()) {
    const int letter = std::fgetc(file.get());
    if (letter == EOF) break;
    if (std::isxdigit(letter) == 0) continue;
    const int value = std::isdigit(letter) != 0 ? letter - '0' : std::tolower(letter) - 'a' + 10;
    boot[digits / 2] = static_cast<uint8_t>(boot[digits / 2] << 4 | value);
    digits++;
  }
  return boot;
}

namespace {

constexpr int kBacklog = 256;
/// Seconds.
constexpr int kProbeEvery = 1;
constexpr int kProbes = 3;
constexpr unsigned kSilenceMilliseconds = 4000;
constexpr unsigned kStalledReaderMilliseconds = 20000;

/// Options are wishes: a kernel that does not grant one still carries the bytes.
void Set(int socket, int level, int name, int value) { setsockopt(socket, level, name, &value, sizeof(value)); }

/// "fe80::1%eth0" is an address that means something on one link only, and the interface to that link.
struct ScopedIp {
  std::string address;
  std::string scope;
};

ScopedIp SplitScope(const std::string& text) {
  const size_t percent = text.find('%');
  if (percent == std::string::npos) return {text, ""};
  return {text.substr(0, percent), text.substr(percent + 1)};
}

/// `scope` is the name of an interface of this host, or its number.
uint32_t ScopeNumber(const std::string& scope, const std::string& address) {
  if (const unsigned number = if_nametoindex(scope.c_str()); number != 0) return number;
  char* end = nullptr;
  const unsigned long number = std::strtoul(scope.c_str(), &end, 10);
  if (*end == '\0' && number > 0 && number <= UINT32_MAX) return static_cast<uint32_t>(number);
  throw Failure("ENODEV", "this host has no network interface " + scope + ", which the address " + address + " names");
}

std::string AddressText(const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = "";
  const void* const bytes = address->sa_family == AF_INET
                                ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in*>(address)->sin_addr)
                                : &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
  inet_ntop(address->sa_family, bytes, text, sizeof(text));
  if (address->sa_family == AF_INET) return text;
  const uint32_t scope = reinterpret_cast<const sockaddr_in6*>(address)->sin6_scope_id;
  char interface[IF_NAMESIZE] = "";
  if (scope == 0) return text;
  return std::string(text) + "%" + (if_indextoname(scope, interface) ? interface : std::to_string(scope));
}

bool IsWanted(const ifaddrs& interface) {
  const sockaddr* const address = interface.ifa_addr;
  if (address == nullptr || (interface.ifa_flags & IFF_UP) == 0) return false;
  if (address->sa_family == AF_INET) return true;
  return address->sa_family == AF_INET6 &&
         !IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
}

}  // namespace

Endpoint Endpoint::Ip(const std::string& address, uint16_t port) {
  Endpoint endpoint;
  auto& four = reinterpret_cast<sockaddr_in&>(endpoint.storage_);
  auto& six = reinterpret_cast<sockaddr_in6&>(endpoint.storage_);
  if (inet_pton(AF_INET, address.c_str(), &four.sin_addr) == 1) {
    four.sin_family = AF_INET;
    four.sin_port = htons(port);
    endpoint.length_ = sizeof(four);
  } else if (const ScopedIp scoped = SplitScope(address);
             inet_pton(AF_INET6, scoped.address.c_str(), &six.sin6_addr) == 1) {
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(port);
    if (!scoped.scope.empty()) six.sin6_scope_id = ScopeNumber(scoped.scope, address);
    endpoint.length_ = sizeof(six);
  } else {
    throw Failure("EINVAL", "not a numeric IP address: " + address);
  }
  return endpoint;
}

bool IsNumericIp(const std::string& address) {
  in6_addr bytes;
  if (inet_pton(AF_INET, address.c_str(), &bytes) == 1) return true;
  const ScopedIp scoped = SplitScope(address);
  const bool has_scope = scoped.address != address;
  return inet_pton(AF_INET6, scoped.address.c_str(), &bytes) == 1 && has_scope == !scoped.scope.empty();
}

Endpoint Endpoint::Local(const FabricId& fabric) {
  Endpoint endpoint;
  auto& local = reinterpret_cast<sockaddr_un&>(endpoint.storage_);
  local.sun_family = AF_UNIX;
  std::string name = "weightcast-fabric-";
  for (const uint8_t byte : fabric) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", byte);
    name += digits;
  }
  // The zero byte in front makes it abstract.
  std::memcpy(local.sun_path + 1, name.data(), name.size());
  endpoint.length_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return endpoint;
}

std::string Endpoint::Text() const {
  if (is_local()) return "this host";
  const auto* const address = reinterpret_cast<const sockaddr*>(&storage_);
  const bool is_four = address->sa_family == AF_INET;
  const uint16_t port = is_four ? reinterpret_cast<const sockaddr_in*>(address)->sin_port
                                : reinterpret_cast<const sockaddr_in6*>(address)->sin6_port;
  const std::string host = AddressText(address);
  return (is_four ? host : "[" + host + "]") + ":" + std::to_string(ntohs(port));
}

UniqueFd Endpoint::Listen() const {
  UniqueFd made(socket(storage_.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!made) throw Failure::System(errno, "cannot make a socket for " + Text());
  if (!is_local()) Set(made.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  // The wildcard address then takes IPv4 too.
  if (storage_.ss_family == AF_INET6) Set(made.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
  if (bind(made.get(), reinterpret_cast<const sockaddr*>(&storage_), length_) != 0 ||
      listen(made.get(), kBacklog) != 0) {
    throw Failure::System(errno, "cannot listen at " + Text());
  }
  return made;
}

UniqueFd Endpoint::Connect() const {
  UniqueFd made(socket(storage_.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!made) throw Failure::System(errno, "cannot make a socket for " + Text());
  if (connect(made.get(), reinterpret_cast<const sockaddr*>(&storage_), length_) != 0 && errno != EINPROGRESS) {
    throw Failure::System(errno, "cannot connect to " + Text());
  }
  return made;
}

uint16_t PortOf(const UniqueFd& socket) {
  Endpoint endpoint;
  endpoint.length_ = sizeof(endpoint.storage_);
  if (getsockname(socket.get(), reinterpret_cast<sockaddr*>(&endpoint.storage_), &endpoint.length_) != 0) {
    throw Failure::System(errno, "cannot learn the port that the fabric listens at");
  }
  const bool is_four = endpoint.storage_.ss_family == AF_INET;
  return ntohs(is_four ? reinterpret_cast<const sockaddr_in&>(endpoint.storage_).sin_port
                       : reinterpret_cast<const sockaddr_in6&>(endpoint.storage_).sin6_port);
}

std::vector<std::string> HostAddresses() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) throw Failure::System(errno, "cannot list this host's addresses");
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owned(list, freeifaddrs);
  std::vector<std::string> addresses;
  std::vector<std::string> loopback;
  for (const ifaddrs* each = list; each != nullptr; each = each->ifa_next) {
    if (!IsWanted(*each)) continue;
    ((each->ifa_flags & IFF_LOOPBACK) != 0 ? loopback : addresses).push_back(AddressText(each->ifa_addr));
  }
  return addresses.empty() ? loopback : addresses;
}

void DetectDeadPeer(int socket) {
  Set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  Set(socket, IPPROTO_TCP, TCP_KEEPIDLE, kProbeEvery);
  Set(socket, IPPROTO_TCP, TCP_KEEPINTVL, kProbeEvery);
  Set(socket, IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  Set(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, kSilenceMilliseconds);
  Set(socket, IPPROTO_TCP, TCP_NODELAY, 1);
}

void DetectStalledReader(int socket) {
  Set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  Set(socket, IPPROTO_TCP, TCP_KEEPIDLE, kProbeEvery);
  Set(socket, IPPROTO_TCP, TCP_KEEPINTVL, kProbeEvery);
  Set(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, kStalledReaderMilliseconds);
  Set(socket, IPPROTO_TCP, TCP_NODELAY, 1);
}

}  // namespace weightcast
