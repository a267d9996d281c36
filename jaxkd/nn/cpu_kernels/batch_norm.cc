// Batch normalisation, the ReLU and the residual sum after it, and their gradient, as handlers that XLA calls on the CPU.
//
// Images are [rows, channels] in memory, whatever their axes. A few channels would leave the processor's vectors empty,
// so several rows are taken side by side, as one wide row. Sums over the batch are taken of values less a shift near
// their mean, in float32 over short runs and in float64 over these, so that no digits are lost to large means or many
// rows. Each thread has a fixed share of the rows: the same number of threads gives the same bits.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace jaxkd {
namespace {

namespace ffi = xla::ffi;

constexpr int64_t kWide = 256;  // floats in a wide row: enough independent sums to hide an addition's latency
constexpr int64_t kRun = 32;    // wide rows that are summed in float32
constexpr int64_t kSample = 16; // rows whose mean is the shift

struct BFloat16 {
  uint16_t bits;
};

inline float Load(float value) { return value; }
inline float Load(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}
inline void Store(float value, float* to) { *to = value; }
inline void Store(float value, BFloat16* to) {  // rounds to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to->bits = static_cast<uint16_t>(value == value ? rounded : 0x7fc0);
}

// How [rows, channels] is walked: `height` wide rows of `width` floats, and what is left at the end.
struct Walk {
  int64_t channels, width, height, total;
  Walk(int64_t rows, int64_t channels) : channels(channels), total(rows * channels) {
    int64_t together = std::max<int64_t>(1, kWide / channels);
    width = channels * std::min(together, std::max<int64_t>(rows, 1));
    height = total / width;
  }
  int64_t rest() const { return total - height * width; }
  int threads() const { return Threads(total); }
  // The wide rows of a thread, [first, second).
  std::pair<int64_t, int64_t> Share(int thread, int threads) const {
    return {height * thread / threads, height * (thread + 1) / threads};
  }
  std::vector<float> Widened(const float* values) const {
    std::vector<float> wide(width);
    for (int64_t i = 0; i < width; ++i) wide[i] = values[i % channels];
    return wide;
  }
};

// Per-channel sums of two quantities over all rows. `add(row, count, first, second)` adds the elements of one row of
// `count` floats at offset `row` to the two arrays.
template <typename Add>
void Sums(const Walk& walk, double* first, double* second, Add add) {
  const int threads = walk.threads();
  std::vector<double> partial(2 * walk.width * threads, 0.0);
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    double* sums = partial.data() + 2 * walk.width * thread;
    std::vector<float> run(2 * walk.width);
    float *one = run.data(), *two = one + walk.width;
    const auto [begin, end] = walk.Share(thread, threads);
    auto flush = [&] {
      for (int64_t i = 0; i < 2 * walk.width; ++i) sums[i] += run[i];
      std::fill(run.begin(), run.end(), 0.0f);
    };
    for (int64_t start = begin; start < end; start += kRun) {
      for (int64_t row = start; row < std::min(start + kRun, end); ++row) add(row * walk.width, walk.width, one, two);
      flush();
    }
    if (thread == threads - 1 && walk.rest()) {
      add(walk.height * walk.width, walk.rest(), one, two);
      flush();
    }
  }
  std::fill(first, first + walk.channels, 0.0);
  std::fill(second, second + walk.channels, 0.0);
  for (int thread = 0; thread < threads; ++thread) {
    const double* sums = partial.data() + 2 * walk.width * thread;
    for (int64_t i = 0; i < walk.width; ++i) {
      first[i % walk.channels] += sums[i];
      second[i % walk.channels] += sums[walk.width + i];
    }
  }
}

// Calls `each(offset, count)` for every wide row, on all threads.
template <typename Each>
void ForEach(const Walk& walk, Each each) {
  const int threads = walk.threads();
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    const auto [begin, end] = walk.Share(thread, threads);
    for (int64_t row = begin; row < end; ++row) each(row * walk.width, walk.width);
    if (thread == threads - 1 && walk.rest()) each(walk.height * walk.width, walk.rest());
  }
}

template <typename T>
void Moments(const T* x, int64_t rows, int64_t channels, float* mean, float* var) {
  const Walk walk(rows, channels);
  std::vector<float> shift(channels, 0.0f);
  const int64_t samples = std::min(kSample, rows);
  for (int64_t s = 0; s < samples; ++s)
    for (int64_t c = 0; c < channels; ++c) shift[c] += Load(x[rows * s / samples * channels + c]) / samples;
  const std::vector<float> wide = walk.Widened(shift.data());
  std::vector<double> sum(channels), squares(channels);
  Sums(walk, sum.data(), squares.data(), [&](int64_t at, int64_t count, float* __restrict one, float* __restrict two) {
    const T* __restrict row = x + at;
    const float* __restrict less = wide.data();
    for (int64_t i = 0; i < count; ++i) {
      const float value = Load(row[i]) - less[i];
      one[i] += value;
      two[i] += value * value;
    }
  });
  for (int64_t c = 0; c < channels; ++c) {
    const double off = sum[c] / rows;
    mean[c] = static_cast<float>(shift[c] + off);
    var[c] = static_cast<float>(std::max(squares[c] / rows - off * off, 0.0));
  }
}

template <bool kRelu, bool kResidual, typename T>
void Apply(const Walk& walk, const T* x, const float* mean, const float* factor, const float* bias, const T* residual,
           T* y) {
  ForEach(walk, [=](int64_t at, int64_t count) {
    const T* __restrict in = x + at;
    const T* __restrict added = residual + at;
    T* __restrict out = y + at;
    const float *__restrict less = mean, *__restrict f = factor, *__restrict more = bias;
    for (int64_t i = 0; i < count; ++i) {
      float value = (Load(in[i]) - less[i]) * f[i] + more[i];
      if (kResidual) value += Load(added[i]);
      if (kRelu) value = value > 0.0f || value != value ? value : 0.0f;
      Store(value, out + i);
    }
  });
}

// The gradient of y = relu(normalised(x) · scale + bias + residual). What the ReLU lets through is where y > 0.
template <bool kRelu, bool kResidual, typename T>
void Gradient(const T* x, const T* y, const T* dy, int64_t rows, int64_t channels, const float* mean, const float* var,
              const float* scale, float epsilon, T* dx, T* dresidual, float* dscale, float* dbias) {
  const Walk walk(rows, channels);
  const std::vector<float> means = walk.Widened(mean);
  std::vector<double> sum(channels), product(channels);
  Sums(walk, sum.data(), product.data(), [&](int64_t at, int64_t count, float* __restrict one, float* __restrict two) {
    const T *__restrict in = x + at, *__restrict out = y + at, *__restrict given = dy + at;
    const float* __restrict less = means.data();
    for (int64_t i = 0; i < count; ++i) {
      float g = Load(given[i]);
      if (kRelu) g = Load(out[i]) > 0.0f ? g : 0.0f;
      one[i] += g;
      two[i] += g * (Load(in[i]) - less[i]);
    }
  });
  std::vector<float> factor(channels), slope(channels), offset(channels);  // dx = factor·g + slope·x + offset
  for (int64_t c = 0; c < channels; ++c) {
    const double inverse = 1.0 / std::sqrt(static_cast<double>(var[c]) + epsilon);
    dscale[c] = static_cast<float>(product[c] * inverse);
    dbias[c] = static_cast<float>(sum[c]);
    const double gain = scale[c] * inverse, tilt = -gain * inverse * inverse * product[c] / rows;
    factor[c] = static_cast<float>(gain);
    slope[c] = static_cast<float>(tilt);
    offset[c] = static_cast<float>(-gain * sum[c] / rows);
  }
  const std::vector<float> factors = walk.Widened(factor.data()), slopes = walk.Widened(slope.data()),
                           offsets = walk.Widened(offset.data());
  const float *a = factors.data(), *b = slopes.data(), *c = offsets.data(), *m = means.data();
  ForEach(walk, [=](int64_t at, int64_t count) {
    const T *__restrict in = x + at, *__restrict out = y + at, *__restrict given = dy + at;
    T *__restrict to = dx + at, *__restrict also = dresidual + at;
    const float *__restrict f = a, *__restrict s = b, *__restrict o = c, *__restrict less = m;
    for (int64_t i = 0; i < count; ++i) {
      float g = Load(given[i]);
      if (kRelu) g = Load(out[i]) > 0.0f ? g : 0.0f;
      Store(f[i] * g + s[i] * (Load(in[i]) - less[i]) + o[i], to + i);
      if (kResidual && kRelu) Store(g, also + i);
    }
  });
}

int64_t Channels(const ffi::AnyBuffer& images) { return images.dimensions().back(); }
int64_t Rows(const ffi::AnyBuffer& images) { return images.element_count() / Channels(images); }

// Calls `body` with a null pointer of the images' type.
template <typename Body>
ffi::Error ByType(const ffi::AnyBuffer& images, Body body) {
  if (images.element_type() == ffi::F32) {
    body(static_cast<float*>(nullptr));
  } else if (images.element_type() == ffi::BF16) {
    body(static_cast<BFloat16*>(nullptr));
  } else {
    return ffi::Error::InvalidArgument("batch normalisation of a type other than float32 and bfloat16");
  }
  return ffi::Error::Success();
}

template <typename T>
T* Data(const ffi::AnyBuffer& buffer) {
  return static_cast<T*>(buffer.untyped_data());
}

ffi::Error MomentsHandler(ffi::AnyBuffer images, ffi::Result<ffi::BufferR1<ffi::F32>> mean,
                          ffi::Result<ffi::BufferR1<ffi::F32>> var) {
  return ByType(images, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    Moments(Data<T>(images), Rows(images), Channels(images), mean->typed_data(), var->typed_data());
  });
}

ffi::Error ApplyHandler(ffi::AnyBuffer images, ffi::BufferR1<ffi::F32> mean, ffi::BufferR1<ffi::F32> factor,
                        ffi::BufferR1<ffi::F32> bias, ffi::AnyBuffer residual, ffi::Result<ffi::AnyBuffer> out,
                        bool relu) {
  return ByType(images, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Walk walk(Rows(images), Channels(images));
    const std::vector<float> less = walk.Widened(mean.typed_data()), f = walk.Widened(factor.typed_data()),
                             more = walk.Widened(bias.typed_data());
    const bool adds = residual.element_count() > 0;
    auto apply = relu ? (adds ? Apply<true, true, T> : Apply<true, false, T>)
                      : (adds ? Apply<false, true, T> : Apply<false, false, T>);
    apply(walk, Data<T>(images), less.data(), f.data(), more.data(), Data<T>(residual), Data<T>(*out));
  });
}

ffi::Error GradientHandler(ffi::AnyBuffer images, ffi::AnyBuffer out, ffi::AnyBuffer cotangent,
                           ffi::BufferR1<ffi::F32> mean, ffi::BufferR1<ffi::F32> var, ffi::BufferR1<ffi::F32> scale,
                           ffi::Result<ffi::AnyBuffer> dimages, ffi::Result<ffi::AnyBuffer> dresidual,
                           ffi::Result<ffi::BufferR1<ffi::F32>> dscale, ffi::Result<ffi::BufferR1<ffi::F32>> dbias,
                           float epsilon, bool relu) {
  return ByType(images, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const bool adds = dresidual->element_count() > 0;
    auto gradient = relu ? (adds ? Gradient<true, true, T> : Gradient<true, false, T>) : Gradient<false, false, T>;
    gradient(Data<T>(images), Data<T>(out), Data<T>(cotangent), Rows(images), Channels(images), mean.typed_data(),
             var.typed_data(), scale.typed_data(), epsilon, Data<T>(*dimages), Data<T>(*dresidual),
             dscale->typed_data(), dbias->typed_data());
  });
}

}  // namespace
}  // namespace jaxkd

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxkd_batch_moments, jaxkd::MomentsHandler,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::AnyBuffer>()                     // images
                                  .Ret<xla::ffi::BufferR1<xla::ffi::F32>>()       // mean
                                  .Ret<xla::ffi::BufferR1<xla::ffi::F32>>());     // biased variance

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxkd_batch_norm, jaxkd::ApplyHandler,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::AnyBuffer>()                     // images
                                  .Arg<xla::ffi::BufferR1<xla::ffi::F32>>()       // mean
                                  .Arg<xla::ffi::BufferR1<xla::ffi::F32>>()       // scale / deviation
                                  .Arg<xla::ffi::BufferR1<xla::ffi::F32>>()       // bias
                                  .Arg<xla::ffi::AnyBuffer>()                     // residual, or an empty array
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<bool>("relu"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxkd_batch_norm_gradient, jaxkd::GradientHandler,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::AnyBuffer>()                     // images
                                  .Arg<xla::ffi::AnyBuffer>()                     // what came out
                                  .Arg<xla::ffi::AnyBuffer>()                     // its cotangent
                                  .Arg<xla::ffi::BufferR1<xla::ffi::F32>>()       // mean
                                  .Arg<xla::ffi::BufferR1<xla::ffi::F32>>()       // variance
                                  .Arg<xla::ffi::BufferR1<xla::ffi::F32>>()       // scale
                                  .Ret<xla::ffi::AnyBuffer>()                     // of the images
                                  .Ret<xla::ffi::AnyBuffer>()                     // of the residual, or an empty array
                                  .Ret<xla::ffi::BufferR1<xla::ffi::F32>>()       // of the scale
                                  .Ret<xla::ffi::BufferR1<xla::ffi::F32>>()       // of the bias
                                  .Attr<float>("epsilon")
                                  .Attr<bool>("relu"));
