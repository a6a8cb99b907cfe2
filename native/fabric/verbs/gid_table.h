#pragma once

#include <optional>
#include <string>

#include "fabric/fabric_address.h"

namespace weightcast {

/// The index in the port's table of the GID by which RoCE peers reach it: RoCE v2 with an IPv4 address if there is one,
/// else with a global IPv6 address, else with a link-local one; the lowest of the best. Nothing if there is none: its
/// network interface is down or has no address. Read from sysfs, the only place that tells v1 from v2 to every version
/// of the library.
std::optional<int> RoceGidIndex(const std::string& device, int port, int table_length);

}  // namespace weightcast
