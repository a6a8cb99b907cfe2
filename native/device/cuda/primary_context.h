#pragma once

#include <memory>
#include <string>

#include "device/cuda/driver.h"

namespace weightcast::cuda {

/// The context that a device's users in this process share. Everything made in it holds the shared pointer, so that it
/// goes last. Safe among threads.
class PrimaryContext {
 public:
  /// `index` counts the devices that CUDA_VISIBLE_DEVICES leaves. Throws CUDA if there is no such device; takes some
  /// 0.3 seconds the first time.
  static std::shared_ptr<const PrimaryContext> Retain(int index);
  ~PrimaryContext();
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;

  const Driver& driver() const { return driver_; }
  DeviceHandle device() const { return device_; }
  Context context() const { return context_; }
  /// As DeviceUuid().
  const std::string& uuid() const { return uuid_; }

  /// For destructors: calls `release` in the context, or not at all if that cannot be entered any more.
  template <class Release>
  void Quietly(Release release) const noexcept {
    if (driver_.cuCtxPushCurrent(context_) != kSuccess) return;
    release();
    Context popped = nullptr;
    driver_.cuCtxPopCurrent(&popped);
  }

 private:
  explicit PrimaryContext(int index);

  const Driver& driver_;
  DeviceHandle device_ = 0;
  std::string uuid_;
  Context context_ = nullptr;
};

/// The device of that index. Throws CUDA and says how many there are.
DeviceHandle FindDevice(const Driver& driver, int index);

/// What NVML and so vLLM call the device: `GPU-` and its UUID, or `MIG-` and the instance's if it is one of MIG.
std::string DeviceUuid(const Driver& driver, DeviceHandle device);

/// As /sys/bus/pci/devices names it: "0000:1b:00.0".
std::string PciAddress(const Driver& driver, DeviceHandle device);

/// The node of the host's memory next to the device; -1 if the host does not say.
int NumaNode(const std::string& pci_address);

}  // namespace weightcast::cuda
