#pragma once

#include <string>

#include "system/base.h"

namespace weightcast {

/// A flat directory that lives as long as the last process that holds it. A holder keeps a shared flock(2) on
/// `<directory>/lock`; the kernel drops it however the process ends.
///
/// Not safe among threads: the caller uses one object from one thread at a time. Several objects of one process
/// may hold the same directory; each counts as a holder.
class SharedDirectory {
 public:
  /// Makes the directory (mode 0700) if it is missing, and joins it.
  explicit SharedDirectory(std::string path);
  /// Leaves.
  ~SharedDirectory();
  SharedDirectory(const SharedDirectory&) = delete;
  SharedDirectory& operator=(const SharedDirectory&) = delete;

  const std::string& path() const { return path_; }

  /// Releases the hold. The last holder removes the directory with all files in it: true if this one did. Files
  /// still mapped stay valid as memory. Does nothing when called again.
  bool Leave() noexcept;

  /// Removes the directory if no live process holds it: true if it was removed. False too if there is none.
  static bool RemoveIfAbandoned(const std::string& path);

 private:
  const std::string path_;
  /// `<directory>/lock`, locked shared; none after Leave().
  UniqueFd lock_;
};

}  // namespace weightcast
