#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace weightcast {

/// What the loads of a process share while any of them runs: buffers to read into, and turns at the processors. Many threads
/// wait for storage at once, and only as many as have a turn compute. Safe among threads.
class LoadResources {
  struct Memory {
    void* mapped;
    /// The part of it that is aligned.
    uint8_t* data;
  };

 public:
  /// Takes one of the turns, and waits for it.
  class Turn {
   public:
    explicit Turn(LoadResources& resources);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    LoadResources& resources_;
  };

  /// Memory for one read of ReadPlan::kMostBytes, aligned for every direct read; goes back when this is destroyed.
  class Buffer {
   public:
    /// Throws ENOMEM.
    explicit Buffer(LoadResources& resources);
    ~Buffer();
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    uint8_t* data() const { return memory_.data; }

   private:
    LoadResources& resources_;
    Memory memory_;
  };

  explicit LoadResources(unsigned turns) : turns_(turns) {}
  ~LoadResources();
  LoadResources(const LoadResources&) = delete;
  LoadResources& operator=(const LoadResources&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable turn_ended_;
  /// Free ones.
  unsigned turns_;
  std::vector<Memory> buffers_;
};

}  // namespace weightcast
