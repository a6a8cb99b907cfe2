#include "collective/source_cache.h"

#include <algorithm>

#include "system/failure.h"

namespace weightcast {

std::shared_ptr<Mapping> SourceCache::Open(const std::string& path, const FileId& file) {
  const auto found = std::find_if(mappings_.begin(), mappings_.end(),
                                  [&file](const auto& mapping) { return mapping->file() == file; });
  if (found != mappings_.end()) {
    mappings_.splice(mappings_.begin(), mappings_, found);
    return mappings_.front();
  }
  std::shared_ptr<Mapping> mapping = Mapping::Open(path, false);
  if (!(mapping->file() == file)) throw Failure("ESTALE", path + " is no longer the file that its root announced");
  mappings_.push_front(mapping);
  if (mappings_.size() > kCapacity) mappings_.pop_back();
  return mapping;
}

}  // namespace weightcast
