#include "fabric/shm_carrier.h"

#include <utility>

#include "memory/copy.h"
#include "memory/mapped_access.h"
#include "system/base.h"

namespace weightcast {
namespace {

constexpr uint64_t kPiece = uint64_t{1} << 20;

class ShmReadJob : public Job {
 public:
  ShmReadJob(std::shared_ptr<Read> read, std::shared_ptr<RemoteSegment> segment, unsigned threads)
      : read_(std::move(read)),
        segment_(std::move(segment)),
        threads_(threads),
        spans_({Span{segment_->mapping->file(), 0, segment_->bytes, false},
                Span{read_->destination()->file(), 0, read_->destination()->bytes(), true}}) {}

  /// Each thread takes pieces of the read as long as there are any.
  size_t pieces() const override { return threads_; }
  const std::vector<Span>& spans() const override { return spans_; }
  void Run(size_t) override {
    const MappedAccess reading(*segment_->mapping);
    const MappedAccess writing(*read_->destination());
    while (const auto piece = read_->Take(kPiece)) {
      StreamCopy(read_->destination()->data() + piece->destination_offset,
                 segment_->mapping->data() + piece->source_offset, piece->bytes);
      if (!segment_->exposure_state->IsOpen()) {
        read_->Fail(Failure(code::kWithdrawn, "the peer no longer exposes the segment"));
      }
      for (const MappedAccess* each : {&reading, &writing}) FailIfEnded(*each);
      read_->Complete(*piece);
    }
  }

 private:
  void FailIfEnded(const MappedAccess& access) {
    try {
      access.Finish();
    } catch (const Failure& failure) {
      read_->Fail(failure);
    }
  }

  const std::shared_ptr<Read> read_;
  const std::shared_ptr<RemoteSegment> segment_;
  const unsigned threads_;
  const std::vector<Span> spans_;
};

}  // namespace

void ShmCarrier::Complete(RemoteSegment& segment, ByteReader& fields, FrameSocket& control) {
  fields.ExpectEnd();
  const UniqueFd file = control.TakeDescriptor();
  const UniqueFd state = control.TakeDescriptor();
  segment.mapping = Mapping::OfDescriptor("the segment of a peer", file.get());
  if (segment.mapping->bytes() < segment.bytes) {
    throw Failure("EPROTO", "the segment of a peer is shorter than it says");
  }
  segment.exposure_state = std::make_shared<ExposureState>(state);
}

void ShmCarrier::Begin(std::shared_ptr<Read> read, std::shared_ptr<RemoteSegment> segment) {
  if (segment->mapping->file() == read->destination()->file()) {
    throw Failure("EINVAL", "a read goes into the file that it comes from, " + read->destination()->path());
  }
  read->Begin();
  const auto job = std::make_shared<ShmReadJob>(std::move(read), std::move(segment), pool_->threads());
  // The read tells its own end; the job has nothing to add.
  pool_->Submit(job, [](const Outcome&) {});
}

}  // namespace weightcast
