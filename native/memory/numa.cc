#include "memory/numa.h"

#include <dirent.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cctype>
#include <cstring>
#include <memory>

namespace weightcast {

int NumaNodes() {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir("/sys/devices/system/node"), closedir);
  int nodes = 0;
  while (const dirent* entry = directory ? readdir(directory.get()) : nullptr) {
    const bool is_node = std::strncmp(entry->d_name, "node", 4) == 0 && std::isdigit(entry->d_name[4]);
    if (is_node) nodes++;
  }
  return nodes > 1 ? nodes : 1;
}

bool PreferNumaNode(int descriptor, uint64_t bytes, int node) {
  constexpr int kMaxNode = 1024;
  constexpr int kBits = 8 * sizeof(unsigned long);
  if (node < 0 || node >= kMaxNode || ftruncate(descriptor, static_cast<off_t>(bytes)) != 0) return false;
  void* const memory = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED) return false;
  unsigned long mask[kMaxNode / kBits] = {};
  mask[node / kBits] = 1UL << (node % kBits);
  // Of shared memory the kernel keeps the policy with the file, beyond this mapping.
  const bool accepted = syscall(SYS_mbind, memory, bytes, MPOL_PREFERRED, mask, kMaxNode, 0) == 0;
  munmap(memory, bytes);
  return accepted;
}

}  // namespace weightcast
