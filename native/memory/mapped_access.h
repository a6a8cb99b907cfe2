#pragma once

#include "memory/mapping.h"

namespace weightcast {

/// Work of this thread on the memory of a mapping, in which pages may be missing because someone has truncated the file: the
/// kernel then sends SIGBUS, which ends a process that has no answer to it. While one of these is alive the answer is that
/// the missing pages become private zeros, which the work reads or writes to no effect, and that Finish() throws.
///
/// Only for the thread that makes it, which destroys it in reverse order. A SIGBUS for anything else goes to whoever handled
/// it before, or ends the process as it would have. A page that the file's own end goes through has zeros behind that end,
/// and is no such page: whether a file is as long as it was has to be asked as well.
class MappedAccess {
 public:
  explicit MappedAccess(const Mapping& mapping);
  ~MappedAccess();
  MappedAccess(const MappedAccess&) = delete;
  MappedAccess& operator=(const MappedAccess&) = delete;

  /// Throws FILE_ENDED with the name of the file if pages were missing, now or at any time since it was mapped.
  void Finish() const;

  /// For the handler of the signal: gives the mapping zeros from the page of `address` to its end. False if the address lies
  /// elsewhere.
  bool Cover(void* address) const;
  const MappedAccess* outer() const { return outer_; }

 private:
  const Mapping& mapping_;
  const MappedAccess* const outer_;
};

}  // namespace weightcast
