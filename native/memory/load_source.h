#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "memory/read_plan.h"
#include "memory/source_file.h"

namespace weightcast {

/// One of the files of a load: what is read of it, and the file while that is under way. Safe among threads.
class LoadSource {
 public:
  LoadSource(std::string path, std::vector<FileRange> ranges);

  const std::vector<FileRange>& ranges() const { return ranges_; }
  const ReadPlan& plan() const { return plan_; }
  /// A piece for each read; one that only opens the file if there is none, so that a missing file is an error.
  size_t pieces() const { return pieces_; }

  /// For a piece: opened by the first one. Throws system errors, and FILE_ENDED if the file is shorter than a range.
  std::shared_ptr<SourceFile> Open();
  /// A piece is done: closes the file after the last one.
  void EndPiece();

 private:
  void CheckSize(const SourceFile& file) const;

  const std::string path_;
  const std::vector<FileRange> ranges_;
  const ReadPlan plan_;
  const size_t pieces_;

  std::mutex mutex_;
  std::shared_ptr<SourceFile> file_;
  size_t pieces_left_;
};

}  // namespace weightcast
