// 3×3 convolutions of stride 1, and their gradients, by Winograd's minimal filtering (Lavin and Gray, *Fast Algorithms
// for Convolutional Neural Networks*, CVPR 2016): a tile of 2×2 outputs takes 16 products in the place of 36.
//
// Tiles of 4×4 pixels, tiles of 2×2 cotangents, and kernels are brought into a basis of 16 parts, in which a convolution
// is a product of matrices for each part: [tiles, C] · [C, O]. Changes of basis are sums, and halves of a kernel's, so
// that results differ from those of a plain convolution in the last bits only. A thread takes some tiles at a time, few
// enough that all their parts stay in its cache. A vector is of some channels.

#include "convolution_3x3.h"

#include <omp.h>

#include <algorithm>

#include "room.h"
#include "threads.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>

namespace jaxkd {
namespace {

#ifdef __AVX512F__
using Vector = __m512;
constexpr int64_t kRows = 8;  // of a block of a product, which is one or two vectors wide and stays in registers
inline Vector Load(const float* from) { return _mm512_loadu_ps(from); }
inline void Store(Vector value, float* to) { _mm512_storeu_ps(to, value); }
inline Vector All(float value) { return _mm512_set1_ps(value); }
inline Vector MultiplyAdd(Vector a, Vector b, Vector sum) { return _mm512_fmadd_ps(a, b, sum); }
inline Vector Relu(Vector value) { return _mm512_max_ps(All(0.0f), value); }  // the second of two where one is NaN
inline Vector Gather(const float* from, int step) {
  const __m512i one = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return _mm512_i32gather_ps(_mm512_mullo_epi32(one, _mm512_set1_epi32(step)), from, sizeof(float));
}
#else
using Vector = __m256;
constexpr int64_t kRows = 6;
inline Vector Load(const float* from) { return _mm256_loadu_ps(from); }
inline void Store(Vector value, float* to) { _mm256_storeu_ps(to, value); }
inline Vector All(float value) { return _mm256_set1_ps(value); }
inline Vector MultiplyAdd(Vector a, Vector b, Vector sum) { return _mm256_fmadd_ps(a, b, sum); }
inline Vector Relu(Vector value) { return _mm256_max_ps(All(0.0f), value); }
inline Vector Gather(const float* from, int step) {
  const __m256i one = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
  return _mm256_i32gather_ps(from, _mm256_mullo_epi32(one, _mm256_set1_epi32(step)), sizeof(float));
}
#endif

constexpr int64_t kLanes = sizeof(Vector) / sizeof(float);
constexpr int64_t kParts = 16;
constexpr int64_t kApart = 16;         // floats between parts, lest all of them fall on the same lines of a cache
constexpr int64_t kInCache = 1 << 17;  // floats that the parts of some tiles may have
constexpr int64_t kFewTiles = 32;      // that do not pay for bringing the kernel into parts
constexpr int64_t kLarge = 1 << 16;    // numbers in a part of a kernel from which on caches are too small
constexpr int64_t kSums = 1 << 19;     // numbers in a part of a kernel's gradient, of all threads together

// The 2×2 outputs of images that a convolution reads 4×4 pixels for.
struct Tiles {
  int64_t down, across, count;
  explicit Tiles(const Convolution3x3& s)
      : down((s.out_height() + 1) / 2), across((s.out_width() + 1) / 2), count(s.batch * down * across) {}
};

// Where a tile lies: its image, and the first of its outputs.
struct Place {
  int64_t image, row, column;
  Place(const Tiles& tiles, int64_t tile) {
    image = tile / (tiles.down * tiles.across);
    row = 2 * (tile / tiles.across % tiles.down);
    column = 2 * (tile % tiles.across);
  }
  // Of its first output, in floats from the first of all.
  int64_t Offset(const Convolution3x3& s) const {
    return ((image * s.out_height() + row) * s.out_width() + column) * s.outputs;
  }
};

// Calls `work(room, first, count)` for all tiles, at most `together` at a time, on some threads, each of which has room
// for the given number of floats.
template <typename Work>
void ForTiles(int64_t tiles, int64_t together, int64_t floats, int threads, Work work) {
#pragma omp parallel num_threads(threads)
  {
    thread_local Room room;
    float* place = room.Floats(floats);
    const int64_t thread = omp_get_thread_num(), team = omp_get_num_threads(), end = tiles * (thread + 1) / team;
    for (int64_t first = tiles * thread / team; first < end; first += together)
      work(place, first, std::min(together, end - first));
  }
}

// How many tiles a thread takes at a time.
int64_t Together(const Convolution3x3& s) {
  const int64_t fitting = kInCache / (kParts * (s.inputs + s.outputs));
  return std::clamp<int64_t>(fitting / kRows * kRows, kRows, 6 * kRows);
}

int ThreadsFor(const Convolution3x3& s) { return Threads(s.batch * s.height * s.width * (s.inputs + s.outputs)); }

// From one part of some tiles to the next, in floats.
int64_t Apart(int64_t tiles, int64_t channels) { return tiles * channels + kApart; }

// parts[16][tiles][C] of 4×4 pixels; those outside of the image are zero.
void ImageParts(const Convolution3x3& s, const Tiles& tiles, const float* images, int64_t first, int64_t count,
                float* parts) {
  const int64_t apart = Apart(count, s.inputs), line = s.width * s.inputs;
  for (int64_t t = 0; t < count; ++t) {
    const Place place(tiles, first + t);
    const int64_t top = place.row - s.padding, left = place.column - s.padding;
    const float* corner = images + ((place.image * s.height + top) * s.width + left) * s.inputs;
    const bool inside = top >= 0 && left >= 0 && top + 4 <= s.height && left + 4 <= s.width;
    for (int64_t c = 0; c < s.inputs; c += kLanes) {
      Vector in[4][4], half[4][4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const bool there = inside || (top + i >= 0 && top + i < s.height && left + j >= 0 && left + j < s.width);
          in[i][j] = there ? Load(corner + i * line + j * s.inputs + c) : All(0.0f);
        }
      }
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        half[0][j] = in[0][j] - in[2][j];
        half[1][j] = in[1][j] + in[2][j];
        half[2][j] = in[2][j] - in[1][j];
        half[3][j] = in[1][j] - in[3][j];
      }
      float* to = parts + t * s.inputs + c;
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i, to += 4 * apart) {
        Store(half[i][0] - half[i][2], to);
        Store(half[i][1] + half[i][2], to + apart);
        Store(half[i][2] - half[i][1], to + 2 * apart);
        Store(half[i][1] - half[i][3], to + 3 * apart);
      }
    }
  }
}

// Columns of a block of a product with so many outputs.
int64_t Width(int64_t outputs) { return outputs % (2 * kLanes) ? kLanes : 2 * kLanes; }

// parts[16][O / width][C][width] of a kernel, of which `tap(i, j, c, o)` is the vector for outputs from o on.
template <typename Tap>
void KernelParts(int64_t inputs, int64_t outputs, float* parts, Tap tap) {
  const int64_t apart = inputs * outputs, width = Width(outputs);
  const Vector half = All(0.5f);
#pragma omp parallel for num_threads(Threads(apart))
  for (int64_t c = 0; c < inputs; ++c) {
    for (int64_t o = 0; o < outputs; o += kLanes) {
      Vector down[4][3];
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) {
        const Vector first = tap(0, j, c, o), middle = tap(1, j, c, o) * half, last = tap(2, j, c, o);
        const Vector outer = (first + last) * half;
        down[0][j] = first;
        down[1][j] = outer + middle;
        down[2][j] = outer - middle;
        down[3][j] = last;
      }
      float* to = parts + (o / width * inputs + c) * width + o % width;
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i, to += 4 * apart) {
        const Vector outer = (down[i][0] + down[i][2]) * half, middle = down[i][1] * half;
        Store(down[i][0], to);
        Store(outer + middle, to + apart);
        Store(outer - middle, to + 2 * apart);
        Store(down[i][2], to + 3 * apart);
      }
    }
  }
}

// sums[row][column] (+)= Σ a[row · a_row + k · a_step] · b[k · b_step + column], for some rows and vectors of columns.
template <int rows, int vectors, bool add>
inline void Block(int64_t depth, const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step,
                  float* sums, int64_t sums_row) {
  Vector sum[rows][vectors];
#pragma GCC unroll 8
  for (int row = 0; row < rows; ++row)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sum[row][v] = All(0.0f);
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) right[v] = Load(b + k * b_step + v * kLanes);
#pragma GCC unroll 8
    for (int row = 0; row < rows; ++row) {
      const Vector left = All(a[row * a_row + k * a_step]);
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[row][v] = MultiplyAdd(left, right[v], sum[row][v]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < rows; ++row)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      float* to = sums + row * sums_row + v * kLanes;
      Store(add ? Load(to) + sum[row][v] : sum[row][v], to);
    }
}

// mixed[tiles][O] = parts[tiles][C] · kernel, one part of 16.
template <int vectors>
void MixPart(int64_t tiles, int64_t inputs, int64_t outputs, const float* parts, const float* kernel, float* mixed) {
  constexpr int64_t width = vectors * kLanes;
  for (int64_t o = 0; o < outputs; o += width, kernel += inputs * width) {
    int64_t t = 0;
    for (; t + kRows <= tiles; t += kRows)
      Block<kRows, vectors, false>(inputs, parts + t * inputs, inputs, 1, kernel, width, mixed + t * outputs + o,
                                   outputs);
    for (; t < tiles; ++t)
      Block<1, vectors, false>(inputs, parts + t * inputs, inputs, 1, kernel, width, mixed + t * outputs + o, outputs);
  }
}

struct Epilogue {
  const float *bias, *residual;
  bool relu;
};

// The outputs of some tiles from mixed[16][tiles][O].
void Outputs(const Convolution3x3& s, const Tiles& tiles, const float* mixed, int64_t first, int64_t count,
             const Epilogue& then, float* outputs) {
  const int64_t apart = Apart(count, s.outputs);
  for (int64_t t = 0; t < count; ++t) {
    const Place place(tiles, first + t);
    const int64_t corner = place.Offset(s);
    const bool below = place.row + 1 < s.out_height(), right = place.column + 1 < s.out_width();
    for (int64_t o = 0; o < s.outputs; o += kLanes) {
      const float* from = mixed + t * s.outputs + o;
      Vector half[2][4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j, from += apart) {
        const Vector one = Load(from + 4 * apart), two = Load(from + 8 * apart);
        half[0][j] = Load(from) + (one + two);
        half[1][j] = (one - two) - Load(from + 12 * apart);
      }
      auto put = [&](Vector value, int64_t at) {
        if (then.bias) value += Load(then.bias + o);
        if (then.residual) value += Load(then.residual + at);
        Store(then.relu ? Relu(value) : value, outputs + at);
      };
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const int64_t at = corner + i * s.out_width() * s.outputs + o;
        if (i && !below) break;
        put(half[i][0] + (half[i][1] + half[i][2]), at);
        if (right) put((half[i][1] - half[i][2]) - half[i][3], at + s.outputs);
      }
    }
  }
}

// Outputs of images and a kernel that was brought into parts.
void Convolve(const Convolution3x3& s, const float* images, const float* kernel, const Epilogue& then, float* outputs) {
  const Tiles tiles(s);
  const int64_t together = Together(s);
  const int64_t for_images = kParts * Apart(together, s.inputs), for_mixed = kParts * Apart(together, s.outputs);
  ForTiles(tiles.count, together, for_images + for_mixed, ThreadsFor(s), [&](float* parts, int64_t first, int64_t count) {
    float* mixed = parts + for_images;
    ImageParts(s, tiles, images, first, count, parts);
    for (int64_t part = 0; part < kParts; ++part) {
      const auto mix = Width(s.outputs) == kLanes ? MixPart<1> : MixPart<2>;
      mix(count, s.inputs, s.outputs, parts + part * Apart(count, s.inputs), kernel + part * s.inputs * s.outputs,
          mixed + part * Apart(count, s.outputs));
    }
    Outputs(s, tiles, mixed, first, count, then, outputs);
  });
}

float* KernelRoom(const Convolution3x3& s) {
  thread_local Room room;
  return room.Floats(kParts * s.inputs * s.outputs);
}

// parts[16][tiles][O] of 2×2 cotangents: what brings outputs back from their parts, transposed.
void CotangentParts(const Convolution3x3& s, const Tiles& tiles, const float* cotangent, int64_t first, int64_t count,
                    float* parts) {
  const int64_t apart = Apart(count, s.outputs), line = s.out_width() * s.outputs;
  for (int64_t t = 0; t < count; ++t) {
    const Place place(tiles, first + t);
    const float* corner = cotangent + place.Offset(s);
    const bool below = place.row + 1 < s.out_height(), right = place.column + 1 < s.out_width();
    for (int64_t o = 0; o < s.outputs; o += kLanes) {
      const Vector none = All(0.0f), one = Load(corner + o);
      const Vector two = right ? Load(corner + s.outputs + o) : none, three = below ? Load(corner + line + o) : none;
      const Vector four = below && right ? Load(corner + line + s.outputs + o) : none;
      const Vector rows[4][2] = {{one, two}, {one + three, two + four}, {one - three, two - four}, {-three, -four}};
      float* to = parts + t * s.outputs + o;
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i, to += 4 * apart) {
        Store(rows[i][0], to);
        Store(rows[i][0] + rows[i][1], to + apart);
        Store(rows[i][0] - rows[i][1], to + 2 * apart);
        Store(-rows[i][1], to + 3 * apart);
      }
    }
  }
}

// sums[C][O] += parts[tiles][C]ᵀ · cotangents[tiles][O], one part of 16.
template <int vectors>
void AddPart(int64_t tiles, int64_t inputs, int64_t outputs, const float* parts, const float* cotangents, float* sums) {
  for (int64_t o = 0; o < outputs; o += vectors * kLanes) {
    int64_t c = 0;
    for (; c + kRows <= inputs; c += kRows)
      Block<kRows, vectors, true>(tiles, parts + c, 1, inputs, cotangents + o, outputs, sums + c * outputs + o,
                                  outputs);
    for (; c < inputs; c += 2)
      Block<2, vectors, true>(tiles, parts + c, 1, inputs, cotangents + o, outputs, sums + c * outputs + o, outputs);
  }
}

// A kernel's gradient [3][3][C][O] from those of its parts, [threads][16][C][O].
void GatherParts(int64_t size, const float* sums, int threads, float* gradient) {
  const Vector half = All(0.5f);
#pragma omp parallel for num_threads(Threads(size))
  for (int64_t at = 0; at < size; at += kLanes) {
    Vector part[4][4], down[3][4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const float* from = sums + (4 * i + j) * size + at;
        part[i][j] = Load(from);
        for (int thread = 1; thread < threads; ++thread) part[i][j] += Load(from + thread * kParts * size);
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Vector outer = (part[1][j] + part[2][j]) * half;
      down[0][j] = part[0][j] + outer;
      down[1][j] = (part[1][j] - part[2][j]) * half;
      down[2][j] = outer + part[3][j];
    }
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) {
      float* to = gradient + 3 * i * size + at;
      const Vector outer = (down[i][1] + down[i][2]) * half;
      Store(down[i][0] + outer, to);
      Store((down[i][1] - down[i][2]) * half, to + size);
      Store(outer + down[i][3], to + 2 * size);
    }
  }
}

}  // namespace

bool WinogradServes(const Convolution3x3& s) {
  const bool whole_vectors = s.inputs % kLanes == 0 && s.outputs % kLanes == 0;
  return whole_vectors && s.padding <= 2 && s.out_height() > 1 && s.out_width() > 1 &&
         Tiles(s).count >= kFewTiles && s.inputs * s.outputs <= kLarge;
}

bool WinogradServesKernelGradient(const Convolution3x3& s) {
  return WinogradServes(s) && s.inputs * s.outputs * ThreadsFor(s) <= kSums;
}

void WinogradForward(const Convolution3x3& s, const float* images, const float* kernel, const float* bias,
                     const float* residual, bool relu, float* outputs) {
  float* parts = KernelRoom(s);
  KernelParts(s.inputs, s.outputs, parts, [&](int i, int j, int64_t c, int64_t o) {
    return Load(kernel + ((3 * i + j) * s.inputs + c) * s.outputs + o);
  });
  Convolve(s, images, parts, {bias, residual, relu}, outputs);
}

void WinogradInputGradient(const Convolution3x3& s, const float* kernel, const float* cotangent, float* gradient) {
  const Convolution3x3 back = s.back();
  float* parts = KernelRoom(s);
  KernelParts(back.inputs, back.outputs, parts, [&](int i, int j, int64_t c, int64_t o) {
    return Gather(kernel + ((8 - 3 * i - j) * s.inputs + o) * s.outputs + c, s.outputs);
  });
  Convolve(back, cotangent, parts, {nullptr, nullptr, false}, gradient);
}

void WinogradKernelGradient(const Convolution3x3& s, const float* images, const float* cotangent, float* gradient) {
  const Tiles tiles(s);
  const int64_t size = s.inputs * s.outputs, together = Together(s);
  const int64_t for_images = kParts * Apart(together, s.inputs), for_outputs = kParts * Apart(together, s.outputs);
  thread_local Room room;
  const int threads = ThreadsFor(s);
  float* sums = room.Floats(kParts * size * threads);
  std::fill(sums, sums + kParts * size * threads, 0.0f);
  ForTiles(tiles.count, together, for_images + for_outputs, threads, [&](float* parts, int64_t first, int64_t count) {
    float *cotangents = parts + for_images, *own = sums + omp_get_thread_num() * kParts * size;
    ImageParts(s, tiles, images, first, count, parts);
    CotangentParts(s, tiles, cotangent, first, count, cotangents);
    for (int64_t part = 0; part < kParts; ++part) {
      const auto add = Width(s.outputs) == kLanes ? AddPart<1> : AddPart<2>;
      add(count, s.inputs, s.outputs, parts + part * Apart(count, s.inputs),
          cotangents + part * Apart(count, s.outputs), own + part * size);
    }
  });
  GatherParts(size, sums, threads, gradient);
}

}  // namespace jaxkd

#else

namespace jaxkd {

bool WinogradServes(const Convolution3x3&) { return false; }
bool WinogradServesKernelGradient(const Convolution3x3&) { return false; }
void WinogradForward(const Convolution3x3&, const float*, const float*, const float*, const float*, bool, float*) {}
void WinogradInputGradient(const Convolution3x3&, const float*, const float*, float*) {}
void WinogradKernelGradient(const Convolution3x3&, const float*, const float*, float*) {}

}  // namespace jaxkd

#endif
