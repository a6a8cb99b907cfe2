#include "device/cuda/primary_context.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstring>
#include <fstream>

namespace weightcast::cuda {

std::shared_ptr<const PrimaryContext> PrimaryContext::Retain(int index) {
  return std::shared_ptr<const PrimaryContext>(new PrimaryContext(index));
}

PrimaryContext::PrimaryContext(int index)
    : driver_(Driver::Get()), device_(FindDevice(driver_, index)), uuid_(DeviceUuid(driver_, device_)) {
  // Threads that wait for the GPU sleep. Not ours to choose if others in the process made the context before us.
  driver_.cuDevicePrimaryCtxSetFlags(device_, kContextBlockingSync);
  driver_.Check(driver_.cuDevicePrimaryCtxRetain(&context_, device_), "cannot make a context on device " + uuid_);
}

PrimaryContext::~PrimaryContext() { driver_.cuDevicePrimaryCtxRelease(device_); }

DeviceHandle FindDevice(const Driver& driver, int index) {
  int count = 0;
  driver.Check(driver.cuDeviceGetCount(&count), "cannot count the GPUs");
  if (index < 0 || index >= count) {
    throw Failure(code::kCuda, "there is no CUDA device " + std::to_string(index) + ": this process sees " +
                                   std::to_string(count) + ", counted from 0 among CUDA_VISIBLE_DEVICES");
  }
  DeviceHandle device = 0;
  driver.Check(driver.cuDeviceGet(&device, index), "cannot find CUDA device " + std::to_string(index));
  return device;
}

std::string DeviceUuid(const Driver& driver, DeviceHandle device) {
  Uuid uuid{};
  Uuid parent{};
  driver.Check(driver.cuDeviceGetUuid(&uuid, device), "cannot ask a device its UUID");
  // The older function gives the UUID of the whole GPU also for an instance of MIG.
  driver.Check(driver.cuDeviceGetParentUuid(&parent, device), "cannot ask a GPU its UUID");
  std::string text = std::memcmp(&uuid, &parent, sizeof(uuid)) == 0 ? "GPU-" : "MIG-";
  for (size_t index = 0; index < sizeof(uuid.bytes); index++) {
    char digits[4];
    std::snprintf(digits, sizeof(digits), "%02x", uuid.bytes[index]);
    if (index == 4 || index == 6 || index == 8 || index == 10) text += '-';
    text += digits;
  }
  return text;
}

std::string PciAddress(const Driver& driver, DeviceHandle device) {
  char text[32] = {};
  driver.Check(driver.cuDeviceGetPCIBusId(text, sizeof(text), device), "cannot ask a device its PCI address");
  std::string address = text;
  std::transform(address.begin(), address.end(), address.begin(), [](unsigned char c) { return std::tolower(c); });
  return address;
}

int NumaNode(const std::string& pci_address) {
  std::ifstream file("/sys/bus/pci/devices/" + pci_address + "/numa_node");
  int node = -1;
  file >> node;
  return file ? node : -1;
}

}  // namespace weightcast::cuda
