#include "device/cuda/probe.h"

#include "device/cuda/primary_context.h"

namespace weightcast::cuda {

Probe ProbeDriver() {
  const Driver& driver = Driver::Get();
  Probe probe{driver.version(), {}};
  int count = 0;
  driver.Check(driver.cuDeviceGetCount(&count), "cannot count the GPUs");
  for (int index = 0; index < count; index++) {
    const DeviceHandle device = FindDevice(driver, index);
    char name[256] = {};
    size_t bytes = 0;
    driver.Check(driver.cuDeviceGetName(name, sizeof(name), device), "cannot ask a device its name");
    driver.Check(driver.cuDeviceTotalMem(&bytes, device), "cannot ask a device its memory");
    probe.devices.push_back({DeviceUuid(driver, device), name, bytes, PciAddress(driver, device)});
  }
  return probe;
}

}  // namespace weightcast::cuda
