/// The digest of native/memory/digest.h on a GPU. Compiled once by build.sh beside this file to PTX, which the addon
/// carries and every driver compiles for its GPU; it has to be run again, by whoever has nvcc, after a change here.

using Word = unsigned long long;
using Byte = unsigned char;

/// A rectangle of a tensor's bytes and where it lies in device memory. The host's side of it is KernelPart in gpu_digest.cc.
struct Part {
  const Byte* data;
  Word row_bytes;
  Word rows;
  Word pitch;
  Word tensor_offset;
  Word tensor_pitch;
  /// How many slices the parts before have.
  Word first_slice;
};

static constexpr unsigned kWarp = 32;
static constexpr Word kSalt = 0x5745494748544341;

static __device__ Word Multiplier(Word index) {
  Word z = index + 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return (z ^ (z >> 31)) | 1;
}

/// Bytes `first` to `first + count` of word `index`; count below 8.
static __device__ Word DigestPartOfWord(const Byte* data, unsigned first, unsigned count, Word index) {
  Word sum = 0;
  for (unsigned k = 0; k < count; k++) {
    const unsigned place = 8 * (first + k);
    sum += ((data[k] ^ (kSalt >> place)) & 0xff) << place;
  }
  return sum * Multiplier(index);
}

/// Whole words, the first of which is word `index` of its tensor, shared out over the lanes of a warp.
static __device__ Word DigestWords(const Byte* data, Word words, Word index, unsigned lane) {
  const unsigned shift = 8 * (reinterpret_cast<Word>(data) % 8);
  const Word* const aligned = reinterpret_cast<const Word*>(data - shift / 8);
  Word sum = 0;
  if (shift == 0) {
#pragma unroll 8
    for (Word k = lane; k < words; k += kWarp) sum += (aligned[k] ^ kSalt) * Multiplier(index + k);
  } else {
    // Each word lies across two aligned ones, both of which hold bytes of it: nothing outside is read.
#pragma unroll 4
    for (Word k = lane; k < words; k += kWarp) {
      const Word word = (aligned[k] >> shift) | (aligned[k + 1] << (64 - shift));
      sum += (word ^ kSalt) * Multiplier(index + k);
    }
  }
  return sum;
}

/// Bytes in one run that stand at `position` in their tensor. Each lane returns its share of the sum.
static __device__ Word DigestRun(const Byte* data, Word bytes, Word position, unsigned lane) {
  Word sum = 0;
  const unsigned first = position % 8;
  if (first != 0) {
    const unsigned count = 8 - first < bytes ? 8 - first : static_cast<unsigned>(bytes);
    if (lane == 0) sum += DigestPartOfWord(data, first, count, position / 8);
    data += count;
    position += count;
    bytes -= count;
  }
  sum += DigestWords(data, bytes / 8, position / 8, lane);
  const unsigned rest = bytes % 8;
  if (rest != 0 && lane == kWarp - 1) {
    sum += DigestPartOfWord(data + bytes - rest, 0, rest, (position + bytes) / 8);
  }
  return sum;
}

/// Each warp takes a slice, `slice_bytes` of a part's content counted row by row, and adds to the part's sum.
extern "C" __global__ void __launch_bounds__(256) weightcast_digest(const Part* parts, unsigned part_count,
                                                                    Word slice_bytes, Word slice_count, Word* sums) {
  const unsigned lane = threadIdx.x % kWarp;
  const Word warps = static_cast<Word>(gridDim.x) * (blockDim.x / kWarp);
  Word slice = static_cast<Word>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  for (; slice < slice_count; slice += warps) {
    // The last part whose first slice is not past this one; parts without bytes have no slice and never are the last.
    unsigned low = 0;
    unsigned high = part_count;
    while (high - low > 1) {
      const unsigned middle = low + (high - low) / 2;
      if (parts[middle].first_slice <= slice) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const Part part = parts[low];
    const Word begin = (slice - part.first_slice) * slice_bytes;
    const Word content = part.row_bytes * part.rows;
    Word left = content - begin < slice_bytes ? content - begin : slice_bytes;
    Word row = begin / part.row_bytes;
    Word column = begin % part.row_bytes;
    Word sum = 0;
    while (left > 0) {
      const Word bytes = part.row_bytes - column < left ? part.row_bytes - column : left;
      sum += DigestRun(part.data + row * part.pitch + column, bytes,
                       part.tensor_offset + row * part.tensor_pitch + column, lane);
      left -= bytes;
      column = 0;
      row++;
    }
    for (unsigned distance = kWarp / 2; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(0xffffffff, sum, distance);
    }
    if (lane == 0) atomicAdd(&sums[low], sum);
  }
}
