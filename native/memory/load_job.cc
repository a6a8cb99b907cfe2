#include "memory/load_job.h"

#include <algorithm>
#include <string>
#include <utility>

#include "memory/copy.h"
#include "memory/digest.h"
#include "memory/mapped_access.h"
#include "system/base.h"

namespace weightcast {
namespace {

uint64_t Down(uint64_t offset, uint64_t block) { return offset / block * block; }
uint64_t Up(uint64_t offset, uint64_t block) { return Down(offset + block - 1, block); }

}  // namespace

LoadJob::LoadJob(std::vector<std::unique_ptr<LoadSource>> sources, std::shared_ptr<Mapping> destination,
                 std::vector<TensorPlace> tensors, double* progress, std::shared_ptr<LoadResources> resources)
    : sources_(std::move(sources)),
      destination_(std::move(destination)),
      digests_(std::move(tensors)),
      progress_(progress),
      resources_(std::move(resources)) {
  destination_->CheckWritable();
  Span written{destination_->file(), UINT64_MAX, 0, true};
  uint64_t digested = 0;
  size_t pieces = 0;
  for (const auto& source : sources_) {
    ends_.push_back(pieces += source->pieces());
    for (const FileRange& range : source->ranges()) {
      destination_->CheckRange(range.destination_offset, range.bytes);
      if (range.bytes == 0) continue;
      digested += digests_.BytesIn(range.destination_offset, range.bytes);
      written.begin = std::min(written.begin, range.destination_offset);
      written.end = std::max(written.end, range.destination_offset + range.bytes);
    }
  }
  if (digested != digests_.bytes()) {
    throw Failure(code::kOutOfRange, "the ranges bring " + std::to_string(digested) + " of the " +
                                         std::to_string(digests_.bytes()) + " bytes of tensors");
  }
  spans_ = {written};
}

size_t LoadJob::pieces() const { return ends_.empty() ? 1 : ends_.back(); }

void LoadJob::Run(size_t piece) {
  if (sources_.empty()) return;
  const size_t index = std::upper_bound(ends_.begin(), ends_.end(), piece) - ends_.begin();
  LoadSource& source = *sources_[index];
  const std::shared_ptr<SourceFile> file = source.Open();
  const size_t request = piece - (ends_[index] - source.pieces());
  if (request < source.plan().requests().size()) {
    const LoadResources::Buffer buffer(*resources_);
    Load({source.plan(), *file, source.plan().requests()[request], buffer.data()});
  }
  source.EndPiece();
}

void LoadJob::Load(Piece piece) {
  auto& [plan, file, request, buffer] = piece;
  const MappedAccess writing(*destination_);
  const bool is_cached = file.IsCached(request.begin, request.end - request.begin);
  if (is_cached) CopyCached(piece);
  if (request.begin < request.end) {
    if (file.IsDirect()) {
      ReadDirect(piece);
    } else {
      ReadThroughCache(piece);
    }
    // What others have read stays for them. A direct read may have turned out to be none.
    if (!is_cached && !file.IsDirect()) file.DropFromCache(request.begin, request.end - request.begin);
  }
  writing.Finish();
}

void LoadJob::CopyCached(Piece& piece) {
  const LoadResources::Turn turn(*resources_);
  uint64_t& at = piece.request.begin;
  while (at < piece.request.end) {
    const uint64_t end = std::min(piece.request.end, at + kDigestBlock);
    if (!piece.file.ReadCached(piece.buffer, at, end - at)) return;
    DeliverBlock(piece, at, end, piece.buffer);
    at = end;
  }
}

void LoadJob::ReadDirect(const Piece& piece) {
  if (ReadInPlace(piece)) return;
  const auto& [plan, file, request, buffer] = piece;
  const uint64_t begin = Down(request.begin, file.block());
  const uint64_t end = Up(request.end, file.block());
  file.Read({{buffer, end - begin}}, begin, request.end - begin);
  Deliver(piece, request.begin, request.end, buffer + (request.begin - begin));
}

bool LoadJob::ReadInPlace(const Piece& piece) {
  const auto& [plan, file, request, buffer] = piece;
  if (request.parts != 1) return false;
  const FileRange& part = plan.parts()[request.first_part];
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
  if (has_head) Deliver(piece, request.begin, begin, buffer + (request.begin - offset));
  Deliver(piece, begin, end, place);
  if (has_tail) Deliver(piece, end, request.end, buffer + block);
  return true;
}

void LoadJob::ReadThroughCache(const Piece& piece) {
  const auto& [plan, file, request, buffer] = piece;
  const uint64_t bytes = request.end - request.begin;
  file.FetchIntoCache(request.begin, bytes);
  file.Read({{buffer, bytes}}, request.begin, bytes);
  Deliver(piece, request.begin, request.end, buffer);
}

void LoadJob::Deliver(const Piece& piece, uint64_t begin, uint64_t end, const uint8_t* data) {
  const LoadResources::Turn turn(*resources_);
  for (uint64_t at = begin; at < end; at += kDigestBlock) {
    DeliverBlock(piece, at, std::min(end, at + kDigestBlock), data + (at - begin));
  }
}

void LoadJob::DeliverBlock(const Piece& piece, uint64_t begin, uint64_t end, const uint8_t* data) {
  const auto first = piece.plan.parts().begin() + static_cast<std::ptrdiff_t>(piece.request.first_part);
  const auto last = first + static_cast<std::ptrdiff_t>(piece.request.parts);
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
