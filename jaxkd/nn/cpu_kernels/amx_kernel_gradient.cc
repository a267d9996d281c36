// Gradients of 3×3 kernels in bfloat16, as products of tiles.
//
// For each of the nine taps such a gradient is a product over all pixels, [C, pixels] · [pixels, O], of images that are
// shifted by the tap and cotangents. Both are first copied as tiles want them: images transposed, cotangents with two
// neighbouring pixels side by side, and zeros where an image is padded.

#include "amx.h"

#include <omp.h>

#include "room.h"
#include "threads.h"

#ifdef JAXKD_AMX

namespace jaxkd {
namespace {

constexpr int64_t kSums = 1 << 19;  // numbers in a gradient, of all threads together

// Some pixels that lie at some places.
struct Source {
  const uint16_t* first;
  const std::vector<int64_t>& pixels;
  int64_t count, channels;

  // Sixteen channels of the pixel at a place; zeros where none is.
  __m256i Load(int64_t place, int64_t channel) const {
    const int64_t pixel = pixels[place];
    if (pixel < 0 || pixel >= count) return _mm256_setzero_si256();
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first + pixel * channels + channel));
  }
  // Those of two neighbours, the two of a channel side by side.
  __m512i Pair(int64_t place, int64_t channel) const {
    return SideBySide(Load(place, channel), Load(place + 1, channel));
  }
};

// Transposes 16×16 numbers of 32 bits.
inline void Transpose(__m512i (&v)[16]) {
  __m512i w[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    w[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    w[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(w[i], w[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(w[i], w[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(w[i + 1], w[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(w[i + 1], w[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    w[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
    w[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
    w[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
    w[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm512_shuffle_i32x4(w[i], w[i + 8], 0x88);
    v[i + 4] = _mm512_shuffle_i32x4(w[i + 4], w[i + 12], 0x88);
    v[i + 8] = _mm512_shuffle_i32x4(w[i], w[i + 8], 0xdd);
    v[i + 12] = _mm512_shuffle_i32x4(w[i + 4], w[i + 12], 0xdd);
  }
}

// to[channels][length]
void CopyTransposed(const Source& from, int64_t length, uint16_t* to) {
  for (int64_t place = 0; place < length; place += kDepth) {
    for (int64_t c = 0; c < from.channels; c += kSide) {
      __m512i pairs[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) pairs[i] = from.Pair(place + 2 * i, c);
      Transpose(pairs);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + (c + i) * length + place, pairs[i]);
    }
  }
}

// to[length / 2][channels][2]
void CopyInPairs(const Source& from, int64_t length, uint16_t* to) {
  for (int64_t place = 0; place < length; place += 2)
    for (int64_t c = 0; c < from.channels; c += kSide, to += 2 * kSide) _mm512_storeu_si512(to, from.Pair(place, c));
}

// Adds to sums of three taps, for 16 inputs and 16 outputs.
void AddThree(int64_t depth, const uint16_t* const (&a)[3], int64_t a_row, const uint16_t* b, int64_t b_row,
              float* const (&sums)[3], int64_t sums_row) {
  _tile_loadd(0, sums[0], sums_row * 4);
  _tile_loadd(1, sums[1], sums_row * 4);
  _tile_loadd(2, sums[2], sums_row * 4);
  for (int64_t k = 0; k < depth; k += kDepth) {
    _tile_loadd(6, b + k / 2 * b_row, b_row * 2);
    _tile_loadd(3, a[0] + k, a_row * 2);
    _tile_dpbf16ps(0, 3, 6);
    _tile_loadd(4, a[1] + k, a_row * 2);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(5, a[2] + k, a_row * 2);
    _tile_dpbf16ps(2, 5, 6);
  }
  _tile_stored(0, sums[0], sums_row * 4);
  _tile_stored(1, sums[1], sums_row * 4);
  _tile_stored(2, sums[2], sums_row * 4);
}

// Adds to sums of a tap, for 32 inputs and 32 outputs.
void AddSquare(int64_t depth, const uint16_t* a, int64_t a_row, const uint16_t* b, int64_t b_row, float* sums,
               int64_t sums_row) {
  const uint16_t* below = a + kSide * a_row;
  float* sums_below = sums + kSide * sums_row;
  _tile_loadd(0, sums, sums_row * 4);
  _tile_loadd(1, sums + kSide, sums_row * 4);
  _tile_loadd(2, sums_below, sums_row * 4);
  _tile_loadd(3, sums_below + kSide, sums_row * 4);
  for (int64_t k = 0; k < depth; k += kDepth) {
    _tile_loadd(4, a + k, a_row * 2);
    _tile_loadd(6, b + k / 2 * b_row, b_row * 2);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + k / 2 * b_row + 2 * kSide, b_row * 2);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, below + k, a_row * 2);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, sums_row * 4);
  _tile_stored(1, sums + kSide, sums_row * 4);
  _tile_stored(2, sums_below, sums_row * 4);
  _tile_stored(3, sums_below + kSide, sums_row * 4);
}

// sums[9][C][O] += what some images add.
void AddImages(const Convolution3x3& s, const Copies& copies, const uint16_t* images, const uint16_t* cotangents,
               float* sums) {
  const int64_t depth = copies.summed, a_row = copies.length, b_row = 2 * s.outputs, size = s.inputs * s.outputs;
  const bool square = s.inputs % (2 * kSide) == 0 && s.outputs % (2 * kSide) == 0;
  const int64_t side = square ? 2 * kSide : kSide, taps = square ? 1 : 3;
  for (int64_t c = 0; c < s.inputs; c += side) {
    for (int64_t o = 0; o < s.outputs; o += side) {
      for (int64_t tap = 0; tap < kTaps; tap += taps) {
        const uint16_t *a = images + c * a_row + copies.offset(tap), *b = cotangents + 2 * o;
        float* to = sums + tap * size + c * s.outputs + o;
        if (square)
          AddSquare(depth, a, a_row, b, b_row, to, s.outputs);
        else
          AddThree(depth, {a, a + 1, a + 2}, a_row, b, b_row, {to, to + size, to + 2 * size}, s.outputs);
      }
    }
  }
}

}  // namespace

bool AmxServesKernelGradient(const Convolution3x3& s) {
  return AmxServes(s) && kTaps * s.inputs * s.outputs * AllThreads() <= kSums;
}

void AmxKernelGradient(const Convolution3x3& s, const uint16_t* images, const uint16_t* cotangent, float* gradient) {
  const Copies copies = Copies::Fitting(s);
  const std::vector<int64_t> of_images = Pixels(s, copies, copies.length, copies.offset(kTaps / 2));
  const std::vector<int64_t> of_cotangents = Pixels(s, copies, copies.summed, 0);
  const int64_t size = kTaps * s.inputs * s.outputs, pixels = s.height * s.width;
  const int threads = AllThreads();
  thread_local Room room_of_sums;
  float* sums = room_of_sums.Floats(threads * size);
#pragma omp parallel num_threads(threads)
  {
    thread_local Room room;
    auto* turned = static_cast<uint16_t*>(room.Get(copies.bytes(s)));
    uint16_t* paired = turned + copies.length * s.inputs;
    const int64_t thread = omp_get_thread_num(), end = s.batch * (thread + 1) / threads;
    float* own = sums + thread * size;
    std::fill(own, own + size, 0.0f);
    const Tiles tiles;
    for (int64_t n = s.batch * thread / threads; n < end; n += copies.count) {
      const int64_t first = n * pixels, count = std::min(copies.count, end - n) * pixels;
      CopyTransposed({images + first * s.inputs, of_images, count, s.inputs}, copies.length, turned);
      CopyInPairs({cotangent + first * s.outputs, of_cotangents, count, s.outputs}, copies.summed, paired);
      AddImages(s, copies, turned, paired, own);
    }
  }
#pragma omp parallel for num_threads(Threads(size))
  for (int64_t at = 0; at < size; ++at) {
    float sum = sums[at];
    for (int thread = 1; thread < threads; ++thread) sum += sums[thread * size + at];
    gradient[at] = sum;
  }
}

}  // namespace jaxkd

#else

namespace jaxkd {

bool AmxServesKernelGradient(const Convolution3x3&) { return false; }
void AmxKernelGradient(const Convolution3x3&, const uint16_t*, const uint16_t*, float*) {}

}  // namespace jaxkd

#endif
