#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "memory/mapping.h"
#include "system/base.h"

namespace weightcast {

class RegionSet;

/// Names an exposure to peers; random, so that a peer can only read what was named to it.
using Token = std::array<uint8_t, 16>;

/// A mapping that peers may read. A read that succeeds has seen only what the memory held before Withdraw(): every
/// way to carry bytes looks at is_open() after it has read them, over shared memory through a word that the reader
/// maps too.
///
/// Safe among threads.
class Exposure {
 public:
  /// `regions` are of the mapping, null where there is no RDMA. Throws ESTALE if the file is no longer found under its
  /// name: it is opened again for peers of the same host.
  explicit Exposure(std::shared_ptr<Mapping> mapping, std::shared_ptr<RegionSet> regions = nullptr);
  ~Exposure();
  Exposure(const Exposure&) = delete;
  Exposure& operator=(const Exposure&) = delete;

  const Token& token() const { return token_; }
  const Mapping& mapping() const { return *mapping_; }
  const std::shared_ptr<RegionSet>& regions() const { return regions_; }
  /// The file, open for reading only.
  int file() const { return file_.get(); }
  /// A page of memory with an ExposureState in front, for peers of the same host.
  int state_file() const { return state_file_.get(); }

  bool is_open() const;
  void Withdraw();

  /// How many connected peers have attached to it.
  std::atomic<uint32_t> readers{0};

 private:
  const Token token_;
  const std::shared_ptr<Mapping> mapping_;
  const std::shared_ptr<RegionSet> regions_;
  UniqueFd file_;
  UniqueFd state_file_;
  std::atomic<uint32_t>* state_ = nullptr;
};

/// The word at the start of a state file, mapped for reading.
class ExposureState {
 public:
  explicit ExposureState(const UniqueFd& state_file);
  ~ExposureState();
  ExposureState(const ExposureState&) = delete;
  ExposureState& operator=(const ExposureState&) = delete;

  /// To be called after the bytes were read.
  bool IsOpen() const;

 private:
  const std::atomic<uint32_t>* word_;
};

/// What a fabric exposes. Safe among threads.
class ExposureTable {
 public:
  static constexpr size_t kCapacity = 4096;

  /// Throws OVERLOADED when full.
  void Add(std::shared_ptr<Exposure> exposure);
  /// Null if it is not there (any more).
  std::shared_ptr<Exposure> Find(const Token& token) const;
  void Remove(const Token& token);
  std::vector<std::shared_ptr<Exposure>> TakeAll();

 private:
  mutable std::mutex mutex_;
  std::map<Token, std::shared_ptr<Exposure>> exposures_;
};

}  // namespace weightcast
