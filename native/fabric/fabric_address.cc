#include "fabric/fabric_address.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <memory>

#include "fabric/wire.h"
#include "system/failure.h"

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

}  // namespace weightcast
