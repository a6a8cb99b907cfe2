#pragma once

#include <list>
#include <memory>
#include <string>

#include "collective/broadcast.h"
#include "memory/mapping.h"

namespace weightcast {

/// Mappings of files that other ranks broadcast from. Mapping a slot afresh for each bucket would cost as much in
/// page faults as the copy itself. Keeps the eight used last; a file that its owner has removed keeps its memory
/// until it drops out or the cache goes.
class SourceCache : public OpenedMemory {
 public:
  /// The file at `path`, which must be the one that `file` identifies.
  std::shared_ptr<Mapping> Open(const std::string& path, const FileId& file);
  /// A removed file keeps its memory for those who have mapped it, so nothing needs to be closed.
  void Close(const Announcement&) override {}
  void CloseAll() override {}

 private:
  static constexpr size_t kCapacity = 8;
  /// Used last at the front.
  std::list<std::shared_ptr<Mapping>> mappings_;
};

}  // namespace weightcast
