// What convolutions on the matrix units of Intel's processors (AMX) share. Those units take products of tiles:
// sums[16][16] += a[16][32] · b[32][16], where b has the numbers of two neighbouring rows side by side.
#pragma once

#include "convolution_3x3.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__)
#define JAXKD_AMX
#include <immintrin.h>

#include <algorithm>
#include <vector>

namespace jaxkd {

constexpr int64_t kSide = 16;   // rows of a tile, and its columns in float32
constexpr int64_t kDepth = 32;  // products that one of tiles sums up
constexpr int64_t kTaps = 9;
constexpr int64_t kInCache = 1 << 18;  // bytes that the copies of some images may have, where one is smaller

// While this lives, the thread has eight tiles: all of them whole, or the last three halves (two of `a` with 16 columns, and
// one of `b` with 16 rows).
class Tiles {
 public:
  explicit Tiles(bool halves = false) {
    alignas(64) struct {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shape;
    if (halves) shape.bytes[5] = shape.bytes[6] = 32, shape.rows[7] = 8;
    _tile_loadconfig(&shape);
  }
  Tiles(const Tiles&) = delete;
  ~Tiles() { _tile_release(); }
};

// Sixteen numbers of each of two rows, the two of a column side by side.
inline __m512i SideBySide(__m256i one, __m256i two) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(one), _mm512_slli_epi32(_mm512_cvtepu16_epi32(two), 16));
}

// Where the pixels of some images lie in their copies: with a place of padding after each line, and a line of it after each
// image, so that a tap of a kernel is the same offset everywhere.
struct Copies {
  int64_t line, image, count, summed, length;
  Copies(const Convolution3x3& s, int64_t images)
      : line(s.width + 1),
        image((s.height + 1) * line),
        count(images),
        summed(Whole(count * image)),
        length(Whole(summed + offset(kTaps - 1))) {}
  static int64_t Whole(int64_t places) { return (places + kDepth - 1) / kDepth * kDepth; }
  int64_t offset(int64_t tap) const { return tap / 3 * line + tap % 3; }
  int64_t bytes(const Convolution3x3& s) const { return 2 * (length * s.inputs + summed * s.outputs); }
  // As many images as fit.
  static Copies Fitting(const Convolution3x3& s) {
    const int64_t images = kInCache / Copies(s, 1).bytes(s);
    return Copies(s, std::clamp<int64_t>(images, 1, s.batch));
  }
};

// For each of `places` the pixel that lies there, or -1; the first pixel lies at `first`.
inline std::vector<int64_t> Pixels(const Convolution3x3& s, const Copies& copies, int64_t places, int64_t first) {
  std::vector<int64_t> pixels(places, -1);
  for (int64_t n = 0; n < copies.count; ++n)
    for (int64_t row = 0; row < s.height; ++row)
      for (int64_t column = 0; column < s.width; ++column)
        pixels[first + n * copies.image + row * copies.line + column] = (n * s.height + row) * s.width + column;
  return pixels;
}

}  // namespace jaxkd

#endif
