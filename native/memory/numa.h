#pragma once

#include <cstdint>

namespace weightcast {

/// How many nodes of memory the host has: 1 where all memory is equally far from everything.
int NumaNodes();

/// Asks that the pages of a file in shared memory, which is made `bytes` long, come from a node as far as it has any.
/// Holds for pages that are not there yet, whichever process first touches them. False if the kernel will not: in a
/// container it often refuses.
bool PreferNumaNode(int descriptor, uint64_t bytes, int node);

}  // namespace weightcast
