#include "memory/load_job.h"

#include <algorithm>
#include <utility>

#include "memory/copy.h"
#include "memory/digest.h"
#include "memory/mapped_access.h"

namespace weightcast {
namespace {

uint64_t Down(uint64_t offset, uint64_t block) { return offset / block * block; }
uint64_t Up(uint64_t offset, uint64_t block) { return Down(offset + block - 1, block); }

}  // namespace

LoadJob::LoadJob(std::string path, std::shared_ptr<Mapping> destination, std::vector<FileRange> ranges,
                 std::vector<TensorPlace> tensors, double* progress, std::shared_ptr<LoadResources> resources)
    : path_(std::move(path)),
      destination_(std::move(destination)),
      ranges_(std::move(ranges)),
      plan_(ranges_),
      digests_(std::move(tensors)),
      progress_(progress),
      resources_(std::move(resources)) {
  destination_->CheckWritable();
  Span written{destination_->file(), UINT64_MAX, 0, true};
  for (const FileRange& range : ranges_) {
    destination_->CheckRange(range.destination_offset, range.bytes);
    if (range.bytes == 0) continue;
    written.begin = std::min(written.begin, range.destination_offset);
    written.end = std::max(written.end, range.destination_offset + range.bytes);
  }
  spans_ = {written};
}

size_t LoadJob::pieces() const { return std::max<size_t>(1, plan_.requests().size()); }

void LoadJob::Run(size_t piece) {
  SourceFile& file = OpenFile();
  if (plan_.requests().empty()) return;
  ReadRequest request = plan_.requests()[piece];
  const LoadResources::Buffer buffer(*resources_);
  const MappedAccess writing(*destination_);
  const bool is_cached = file.IsCached(request.begin, request.end - request.begin);
  if (is_cached) request.begin = CopyCached(file, request, buffer.data());
  if (request.begin < request.end && file.IsDirect()) {
    ReadDirect(file, request, buffer.data());
  } else if (request.begin < request.end) {
    ReadThroughCache(file, request, buffer.data());
  }
  // What others have read stays for them. A direct read may have turned out to be none.
  if (!is_cached && !file.IsDirect()) file.DropFromCache(request.begin, request.end - request.begin);
  writing.Finish();
}

SourceFile& LoadJob::OpenFile() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (file_) return *file_;
  file_.emplace(path_);
  for (const FileRange& range : ranges_) {
    if (range.bytes == 0 || range.file_end() <= file_->bytes()) continue;
    const Failure failure(code::kFileEnded, path_ + " has " + std::to_string(file_->bytes()) + " bytes, but the bytes " +
                                                std::to_string(range.file_offset) + " to " +
                                                std::to_string(range.file_end()) + " are asked for");
    file_.reset();
    throw failure;
  }
  return *file_;
}

uint64_t LoadJob::CopyCached(const SourceFile& file, const ReadRequest& request, uint8_t* buffer) {
  const LoadResources::Turn turn(*resources_);
  for (uint64_t at = request.begin; at < request.end;) {
    const uint64_t end = std::min(request.end, at + kDigestBlock);
    if (!file.ReadCached(buffer, at, end - at)) return at;
    DeliverBlock(request, at, end, buffer);
    at = end;
  }
  return request.end;
}

void LoadJob::ReadDirect(SourceFile& file, const ReadRequest& request, uint8_t* buffer) {
  if (ReadInPlace(file, request, buffer)) return;
  const uint64_t begin = Down(request.begin, file.block());
  const uint64_t end = Up(request.end, file.block());
  file.Read({{buffer, end - begin}}, begin, request.end - begin);
  Deliver(request, request.begin, request.end, buffer + (request.begin - begin));
}

bool LoadJob::ReadInPlace(SourceFile& file, const ReadRequest& request, uint8_t* buffer) {
  if (request.parts != 1) return false;
  const FileRange& part = plan_.parts()[request.first_part];
  const uint64_t block = file.block();
  const uint64_t begin = Up(request.begin, block);
  const uint64_t end = Down(request.end, block);
  uint8_t* const place = destination_->data() + part.destination_offset + (begin - part.file_offset);
  if (begin >= end || reinterpret_cast<uintptr_t>(place) % file.memory_alignment() != 0) return false;
  // The ends share their blocks with what is not wanted.
  const bool has_head = begin != request.begin;
  const bool has_tail = end != request.end;
  std::vector<iovec> places;
  if (has_head) places.push_back({buffer, block});
  places.push_back({place, end - begin});
  if (has_tail) places.push_back({buffer + block, block});
  const uint64_t offset = has_head ? begin - block : begin;
  file.Read(std::move(places), offset, request.end - offset);
  if (has_head) Deliver(request, request.begin, begin, buffer + (request.begin - offset));
  Deliver(request, begin, end, place);
  if (has_tail) Deliver(request, end, request.end, buffer + block);
  return true;
}

void LoadJob::ReadThroughCache(SourceFile& file, const ReadRequest& request, uint8_t* buffer) {
  const uint64_t bytes = request.end - request.begin;
  file.FetchIntoCache(request.begin, bytes);
  file.Read({{buffer, bytes}}, request.begin, bytes);
  Deliver(request, request.begin, request.end, buffer);
}

void LoadJob::Deliver(const ReadRequest& request, uint64_t begin, uint64_t end, const uint8_t* data) {
  const LoadResources::Turn turn(*resources_);
  for (uint64_t at = begin; at < end; at += kDigestBlock) {
    DeliverBlock(request, at, std::min(end, at + kDigestBlock), data + (at - begin));
  }
}

void LoadJob::DeliverBlock(const ReadRequest& request, uint64_t begin, uint64_t end, const uint8_t* data) {
  const auto first = plan_.parts().begin() + static_cast<std::ptrdiff_t>(request.first_part);
  const auto last = first + static_cast<std::ptrdiff_t>(request.parts);
  for (auto part = first; part != last && part->file_offset < end; ++part) {
    const uint64_t from = std::max(begin, part->file_offset);
    const uint64_t to = std::min(end, part->file_end());
    if (from >= to) continue;
    const uint64_t place = part->destination_offset + (from - part->file_offset);
    const uint8_t* const source = data + (from - begin);
    digests_.Add(place, source, to - from);
    uint8_t* const destination = destination_->data() + place;
    if (destination != source) StreamCopy(destination, source, to - from);
    AddTo(progress_, to - from);
  }
}

}  // namespace weightcast
