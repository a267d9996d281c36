// 3×3 convolutions of stride 1 in bfloat16, and the gradients of their inputs, as products of tiles.
//
// Images are first copied with their padding around them. Then the three pixels under a line of a kernel lie in a row,
// and a convolution is the product [pixels, 3C] · [3C, O] for each of the three lines.

#include "amx.h"

#include <omp.h>

#include "room.h"
#include "threads.h"

#ifdef JAXKD_AMX
#include <sys/syscall.h>
#include <unistd.h>

namespace jaxkd {
namespace {

constexpr int64_t kTile = 512;         // numbers in bfloat16
constexpr int64_t kLargest = 3 << 19;  // bytes that the copies of one image may have

// Linux gives a process the registers when it asks for them.
bool Permitted() {
  constexpr int kRequest = 0x1023, kTileData = 18;
  static const bool permitted = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  return permitted;
}

// A kernel as tiles: [O / 16][3][steps][32 / 2][16][2]. The last step of a line may be half a one.
struct KernelTiles {
  int64_t whole, steps, apart;
  explicit KernelTiles(int64_t inputs)
      : whole(3 * inputs / kDepth), steps((3 * inputs + kDepth - 1) / kDepth), apart(3 * steps * kTile) {}
  bool halves() const { return whole < steps; }
};

// `tap(i, j, c, o)` is the vector for outputs from o on, in float32.
template <typename Tap>
void CutKernel(int64_t inputs, int64_t outputs, uint16_t* to, Tap tap) {
  const KernelTiles tiles(inputs);
#pragma omp parallel for num_threads(Threads(kTaps * inputs * outputs))
  for (int64_t o = 0; o < outputs; o += kSide) {
    for (int64_t i = 0; i < 3; ++i) {
      uint16_t* line = to + o / kSide * tiles.apart + i * tiles.steps * kTile;
      for (int64_t k = 0; k < 3 * inputs; k += 2, line += 2 * kSide) {
        const auto one = _mm512_cvtneps_pbh(tap(i, k / inputs, k % inputs, o));
        const auto two = _mm512_cvtneps_pbh(tap(i, k / inputs, k % inputs + 1, o));
        _mm512_storeu_si512(line, SideBySide((__m256i)one, (__m256i)two));
      }
    }
  }
}

// to[places][C] of some images; the padding between them is there already.
void CopyPadded(const Convolution3x3& s, const Copies& copies, const uint16_t* images, int64_t count, uint16_t* to) {
  to += copies.offset(kTaps / 2) * s.inputs;
  for (int64_t n = 0; n < count; ++n)
    for (int64_t row = 0; row < s.height; ++row, images += s.width * s.inputs)
      std::copy_n(images, s.width * s.inputs, to + (n * copies.image + row * copies.line) * s.inputs);
}

// sums[2][32][16]: of 32 places, for 32 outputs.
void MixSquare(const KernelTiles& tiles, const uint16_t* a, int64_t line, int64_t inputs, const uint16_t* kernel,
               float* sums) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int i = 0; i < 3; ++i, a += line) {
    for (int64_t k = 0; k < tiles.whole; ++k, kernel += kTile) {
      _tile_loadd(4, a + k * kDepth, inputs * 2);
      _tile_loadd(6, kernel, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, kernel + tiles.apart, 64);
      _tile_dpbf16ps(2, 4, 7);
      _tile_loadd(5, a + kSide * inputs + k * kDepth, inputs * 2);
      _tile_dpbf16ps(1, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + 256, 64);
  _tile_stored(2, sums + 512, 64);
  _tile_stored(3, sums + 768, 64);
}

// sums[32][16]: of 32 places, for 16 outputs.
void MixColumn(const KernelTiles& tiles, const uint16_t* a, int64_t line, int64_t inputs, const uint16_t* kernel,
               float* sums) {
  _tile_zero(0);
  _tile_zero(1);
  for (int i = 0; i < 3; ++i, a += line) {
    const uint16_t* below = a + kSide * inputs;
    for (int64_t k = 0; k < tiles.whole; ++k, kernel += kTile) {
      _tile_loadd(4, kernel, 64);
      _tile_loadd(2, a + k * kDepth, inputs * 2);
      _tile_dpbf16ps(0, 2, 4);
      _tile_loadd(3, below + k * kDepth, inputs * 2);
      _tile_dpbf16ps(1, 3, 4);
    }
    if (!tiles.halves()) continue;
    _tile_loadd(7, kernel, 64);
    _tile_loadd(5, a + tiles.whole * kDepth, inputs * 2);
    _tile_dpbf16ps(0, 5, 7);
    _tile_loadd(6, below + tiles.whole * kDepth, inputs * 2);
    _tile_dpbf16ps(1, 6, 7);
    kernel += kTile;
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + 256, 64);
}

struct Epilogue {
  const float* bias;
  const uint16_t* residual;
  bool relu;
};

// Sixteen outputs from `at` on.
inline void Put(const float* sums, const Epilogue& then, int64_t at, int64_t o, uint16_t* outputs) {
  __m512 value = _mm512_loadu_ps(sums);
  if (then.bias) value += _mm512_loadu_ps(then.bias + o);
  if (then.residual) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(then.residual + at));
    value += _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  if (then.relu) value = _mm512_max_ps(_mm512_setzero_ps(), value);  // the second of two where one is NaN
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(outputs + at), (__m256i)_mm512_cvtneps_pbh(value));
}

// Outputs of images and a kernel that was cut into tiles.
void Convolve(const Convolution3x3& s, const uint16_t* images, const uint16_t* kernel, const Epilogue& then,
              uint16_t* outputs) {
  const Copies copies = Copies::Fitting(s);
  const KernelTiles kernel_tiles(s.inputs);
  const std::vector<int64_t> of_outputs = Pixels(s, copies, copies.summed, 0);
  const int64_t pixels = s.height * s.width;
  const int threads = AllThreads();
  const bool square = !kernel_tiles.halves() && s.outputs % (2 * kSide) == 0;
  const auto mix = square ? MixSquare : MixColumn;
#pragma omp parallel num_threads(threads)
  {
    thread_local Room room;
    const int64_t size = copies.length * s.inputs;
    auto* padded = static_cast<uint16_t*>(room.Get(2 * size));
    std::fill(padded, padded + size, 0);
    alignas(64) float sums[4 * kSide * kSide];
    const int64_t thread = omp_get_thread_num(), end = s.batch * (thread + 1) / threads;
    const Tiles tiles(kernel_tiles.halves());
    for (int64_t n = s.batch * thread / threads; n < end; n += copies.count) {
      const int64_t count = std::min(copies.count, end - n), first = n * pixels * s.outputs;
      CopyPadded(s, copies, images + n * pixels * s.inputs, count, padded);
      for (int64_t o = 0; o < s.outputs; o += square ? 2 * kSide : kSide) {
        for (int64_t place = 0; place < count * copies.image; place += 2 * kSide) {
          mix(kernel_tiles, padded + place * s.inputs, copies.line * s.inputs, s.inputs,
              kernel + o / kSide * kernel_tiles.apart, sums);
          for (int64_t row = 0; row < 2 * kSide; ++row) {
            const int64_t pixel = of_outputs[place + row], at = first + pixel * s.outputs + o;
            if (pixel < 0 || pixel >= count * pixels) continue;
            Put(sums + row * kSide, then, at, o, outputs);
            if (square) Put(sums + (2 * kSide + row) * kSide, then, at + kSide, o + kSide, outputs);
          }
        }
      }
    }
  }
}

uint16_t* KernelRoom(const Convolution3x3& s) {
  thread_local Room room;
  return static_cast<uint16_t*>(room.Get(2 * s.outputs / kSide * KernelTiles(s.inputs).apart));
}

}  // namespace

bool AmxServes(const Convolution3x3& s) {
  const int64_t threads = AllThreads();  // each takes whole images, and none should wait long for another
  return s.batch > 0 && s.inputs % kSide == 0 && s.outputs % kSide == 0 && s.padding == 1 &&
         Copies(s, 1).bytes(s) <= kLargest && (s.batch % threads == 0 || s.batch >= 4 * threads) && Permitted();
}

void AmxForward(const Convolution3x3& s, const uint16_t* images, const float* kernel, const float* bias,
                const uint16_t* residual, bool relu, uint16_t* outputs) {
  uint16_t* tiles = KernelRoom(s);
  CutKernel(s.inputs, s.outputs, tiles, [&](int64_t i, int64_t j, int64_t c, int64_t o) {
    return _mm512_loadu_ps(kernel + ((3 * i + j) * s.inputs + c) * s.outputs + o);
  });
  Convolve(s, images, tiles, {bias, residual, relu}, outputs);
}

void AmxInputGradient(const Convolution3x3& s, const float* kernel, const uint16_t* cotangent, uint16_t* gradient) {
  const Convolution3x3 back = s.back();
  const __m512i one = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i steps = _mm512_mullo_epi32(one, _mm512_set1_epi32(s.outputs));
  uint16_t* tiles = KernelRoom(back);
  CutKernel(back.inputs, back.outputs, tiles, [&](int64_t i, int64_t j, int64_t c, int64_t o) {
    return _mm512_i32gather_ps(steps, kernel + ((8 - 3 * i - j) * s.inputs + o) * s.outputs + c, sizeof(float));
  });
  Convolve(back, cotangent, tiles, {nullptr, nullptr, false}, gradient);
}

}  // namespace jaxkd

#else

namespace jaxkd {

bool AmxServes(const Convolution3x3&) { return false; }
void AmxForward(const Convolution3x3&, const uint16_t*, const float*, const float*, const uint16_t*, bool, uint16_t*) {}
void AmxInputGradient(const Convolution3x3&, const float*, const uint16_t*, uint16_t*) {}

}  // namespace jaxkd

#endif
