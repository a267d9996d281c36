// Layer normalisation over rows, and its gradient, as handlers that XLA calls on the CPU.
//
// A row is read once, and what is needed of it again is in the nearest cache. The gradients of scale and bias are summed
// in float32 over short runs of rows and in float64 over these, by each thread for its share of the rows: the same number
// of threads gives the same bits.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace jaxkd {
namespace {

namespace ffi = xla::ffi;
using Rows = ffi::BufferR2<ffi::F32>;
using Channels = ffi::BufferR1<ffi::F32>;

constexpr int64_t kRun = 32;  // rows that are summed in float32

struct Moments {
  float mean, factor;  // the mean of a row, and what its values less the mean are multiplied by
  Moments(const float* row, int64_t channels, float epsilon) {
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < channels; ++i) sum += row[i];
    mean = sum / channels;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < channels; ++i) squares += (row[i] - mean) * (row[i] - mean);
    factor = 1 / std::sqrt(squares / channels + epsilon);
  }
};

ffi::Error LayerNorm(Rows values, Channels scale, Channels bias, ffi::Result<Rows> out, float epsilon) {
  const int64_t rows = values.dimensions()[0], channels = values.dimensions()[1];
  const float *a = scale.typed_data(), *b = bias.typed_data();
#pragma omp parallel for schedule(static) num_threads(Threads(rows* channels))
  for (int64_t row = 0; row < rows; ++row) {
    const float* x = values.typed_data() + row * channels;
    float* y = out->typed_data() + row * channels;
    const Moments moments(x, channels, epsilon);
#pragma omp simd
    for (int64_t i = 0; i < channels; ++i) y[i] = (x[i] - moments.mean) * moments.factor * a[i] + b[i];
  }
  return ffi::Error::Success();
}

ffi::Error LayerNormGradient(Rows values, Channels scale, Rows cotangent, ffi::Result<Rows> of_values,
                             ffi::Result<Channels> of_scale, ffi::Result<Channels> of_bias, float epsilon) {
  const int64_t rows = values.dimensions()[0], channels = values.dimensions()[1];
  const float* a = scale.typed_data();
  const int threads = Threads(rows * channels);
  std::vector<double> sums(2 * channels * threads, 0.0);
#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num(), begin = rows * thread / threads, end = rows * (thread + 1) / threads;
    double* own = sums.data() + 2 * channels * thread;
    std::vector<float> run(2 * channels);
    float *run_scale = run.data(), *run_bias = run_scale + channels;
    for (int64_t start = begin; start < end; start += kRun) {
      std::fill(run.begin(), run.end(), 0.0f);
      for (int64_t row = start; row < std::min(start + kRun, end); ++row) {
        const float *x = values.typed_data() + row * channels, *g = cotangent.typed_data() + row * channels;
        float *to = of_values->typed_data() + row * channels, mean = 0, along = 0;
        const Moments moments(x, channels, epsilon);
#pragma omp simd reduction(+ : mean, along)
        for (int64_t i = 0; i < channels; ++i) {
          const float unit = (x[i] - moments.mean) * moments.factor;
          mean += g[i] * a[i];
          along += g[i] * a[i] * unit;
          run_scale[i] += g[i] * unit;
          run_bias[i] += g[i];
        }
        mean /= channels, along /= channels;
#pragma omp simd
        for (int64_t i = 0; i < channels; ++i)
          to[i] = moments.factor * (g[i] * a[i] - mean - (x[i] - moments.mean) * moments.factor * along);
      }
      for (int64_t i = 0; i < 2 * channels; ++i) own[i] += run[i];
    }
  }
  for (int64_t i = 0; i < channels; ++i) {
    double scaled = 0, plain = 0;
    for (int thread = 0; thread < threads; ++thread) {
      scaled += sums[2 * channels * thread + i];
      plain += sums[2 * channels * thread + channels + i];
    }
    of_scale->typed_data()[i] = static_cast<float>(scaled);
    of_bias->typed_data()[i] = static_cast<float>(plain);
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace jaxkd

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxkd_layer_norm, jaxkd::LayerNorm,
                              xla::ffi::Ffi::Bind()
                                  .Arg<jaxkd::Rows>()      // values
                                  .Arg<jaxkd::Channels>()  // scale
                                  .Arg<jaxkd::Channels>()  // bias
                                  .Ret<jaxkd::Rows>()
                                  .Attr<float>("epsilon"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxkd_layer_norm_gradient, jaxkd::LayerNormGradient,
                              xla::ffi::Ffi::Bind()
                                  .Arg<jaxkd::Rows>()      // values
                                  .Arg<jaxkd::Channels>()  // scale
                                  .Arg<jaxkd::Rows>()      // cotangent
                                  .Ret<jaxkd::Rows>()      // of values
                                  .Ret<jaxkd::Channels>()  // of scale
                                  .Ret<jaxkd::Channels>()  // of bias
                                  .Attr<float>("epsilon"));
