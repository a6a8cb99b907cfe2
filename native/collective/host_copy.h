#pragma once

#include <cstdint>
#include <memory>

#include "collective/broadcast.h"
#include "collective/source_cache.h"
#include "memory/mapping.h"

namespace weightcast {

/// A broadcast within the memory of the host: each receiver maps the file in which the root's source lies and copies
/// from it.
class HostCopy : public BroadcastCopy {
 public:
  struct Places {
    /// On the root only.
    std::shared_ptr<Mapping> source;
    uint64_t source_offset = 0;
    std::shared_ptr<Mapping> destination;
    uint64_t destination_offset = 0;
    uint64_t bytes = 0;
  };

  /// `sources` are the files of other ranks that the collective has mapped. Throws OUT_OF_RANGE, EACCES or EINVAL.
  HostCopy(Places places, std::shared_ptr<SourceCache> sources);

  bool has_source() const override { return places_.source != nullptr; }
  uint64_t bytes() const override { return places_.bytes; }
  void Announce(Announcement& announcement) const override;
  void CopyOwn(const Check& check) override;
  void CopyAnnounced(const Announcement& announcement, const Check& check) override;

 private:
  void Copy(const Mapping& source, uint64_t source_offset, const Check& check);

  const Places places_;
  const std::shared_ptr<SourceCache> sources_;
};

}  // namespace weightcast
