#pragma once

#include <optional>
#include <string>

namespace weightcast {

/// Why the dynamic linker does not load a library of that name, in its own words; nothing if it does. Leaves it as it
/// was.
std::optional<std::string> WhyNotLoaded(const std::string& name);

/// The library that WEIGHTCAST_NCCL names, or else "libnccl.so.2".
std::string NcclName();

/// The version of the NCCL that this process would use, 10000 * major + 100 * minor + patch. Throws ENOENT with the
/// linker's words where there is none.
int NcclVersion();

}  // namespace weightcast
