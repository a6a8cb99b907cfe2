#pragma once

#include <cstdint>
#include <memory>

#include "fabric/control.h"
#include "fabric/verbs/verbs_device.h"

namespace weightcast {

/// What one end of a queue pair has to know of the other.
struct QueuePairEnd {
  uint32_t number = 0;
  uint32_t first_packet = 0;
  /// How many reads it answers at the same time.
  uint8_t reads_answered = 0;
  uint8_t mtu = 0;
  uint16_t lid = 0;
  Gid gid{};

  void Put(ByteWriter& writer) const;
  /// Throws EPROTO.
  static QueuePairEnd Get(ByteReader& reader);
};

/// A reliable connection between a port of this host and one of another, used for reads in one direction. All
/// functions throw the system's errors. Destroyed, it writes to memory no more.
class QueuePair {
 public:
  enum class Role {
    /// Its completions are announced on a descriptor.
    kReader,
    /// Its host takes no part in the reads and is not notified of them.
    kSource,
  };

  struct Completion {
    uint64_t number;
    int status;
  };

  QueuePair(std::shared_ptr<VerbsDevice> device, Role role);
  ~QueuePair();
  QueuePair(const QueuePair&) = delete;
  QueuePair& operator=(const QueuePair&) = delete;

  const VerbsDevice& device() const { return *device_; }
  QueuePairEnd End() const;
  /// From here on the other end can be read, or can read.
  void Connect(const QueuePairEnd& other);

  /// How many reads may be posted and not completed.
  static uint32_t capacity();
  /// Bytes of the other side's memory go to this side's.
  void PostRead(uint64_t number, uint8_t* destination, uint32_t local_key, uint64_t address, uint32_t remote_key,
                uint32_t bytes);

  /// Readable when there are completions, once Rearm() has been called.
  int completion_descriptor() const { return channel_->fd; }
  /// Takes the announcement, and asks for the next one. To be followed by Poll() until that is false.
  void Rearm();
  bool Poll(Completion* completion);

 private:
  void Destroy();
  void Modify(ibv::QpAttr& attributes, int mask, const char* what);
  ibv::AhAttr PathTo(const QueuePairEnd& other) const;

  const std::shared_ptr<VerbsDevice> device_;
  const VerbsLibrary& library_;
  const Role role_;
  const uint32_t first_packet_;
  ibv::CompChannel* channel_ = nullptr;
  ibv::Cq* completions_ = nullptr;
  ibv::Qp* pair_ = nullptr;
};

}  // namespace weightcast
