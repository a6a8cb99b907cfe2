#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weightcast::cuda {

struct ProbedDevice {
  std::string uuid;
  std::string name;
  uint64_t total_bytes;
  std::string pci_address;
};

struct Probe {
  /// As Driver::version().
  int version;
  /// In the order of their indices.
  std::vector<ProbedDevice> devices;
};

/// What the driver sees, without making a context on any device. Throws CUDA.
Probe ProbeDriver();

}  // namespace weightcast::cuda
