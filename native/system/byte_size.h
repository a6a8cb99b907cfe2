#pragma once

#include <cstdint>
#include <string>

namespace weightcast {

/// "512 bytes", "64 MiB", "1.5 GiB": for messages. Rounded to one decimal from KiB on.
std::string ByteSize(uint64_t bytes);

}  // namespace weightcast
