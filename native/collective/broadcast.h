#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "collective/control_file.h"
#include "system/outcome.h"

namespace weightcast {

/// How the bytes of one broadcast move on one rank of a host: the part of ShmCollective that knows what kind of
/// memory they lie in. Used on the collective's thread, but for construction.
class BroadcastCopy {
 public:
  /// Called between pieces of a copy; throws once the collective has ended.
  using Check = std::function<void()>;

  virtual ~BroadcastCopy() = default;

  /// Whether this rank holds the source, which makes it the root.
  virtual bool has_source() const = 0;
  virtual uint64_t bytes() const = 0;
  /// On the root: writes where the source lies, so that other processes can open it.
  virtual void Announce(Announcement& announcement) const = 0;
  /// On the root: copies the source into the destination. Returns when the bytes are there.
  virtual void CopyOwn(const Check& check) = 0;
  /// Elsewhere: copies from where the root announced that its source lies. Returns when the bytes are there.
  virtual void CopyAnnounced(const Announcement& announcement, const Check& check) = 0;
};

/// Memory of other ranks that a collective has open. Opening it takes about as long as copying some 100 MiB of it, so it
/// stays open from one broadcast to the next. Used on the collective's thread.
class OpenedMemory {
 public:
  virtual ~OpenedMemory() = default;

  /// Closes what was opened of the announcement's root, unless it may stay open after its owner has freed it.
  virtual void Close(const Announcement& announcement) = 0;
  virtual void CloseAll() = 0;
};

/// One broadcast, as one rank of a host sees it.
struct Broadcast {
  uint32_t root = 0;
  /// In milliseconds of MonotonicMilliseconds().
  double deadline = 0;
  /// On the root: the others let go of its memory before they are done.
  bool lets_go = false;
  std::unique_ptr<BroadcastCopy> copy;
  Done done;
};

}  // namespace weightcast
