// Scaled dot-product attention and its gradient, as handlers that XLA calls on the CPU.
//
// Queries, keys and values are taken as a linear layer leaves them, side by side. A thread takes one head of one image
// at a time, and of it so many queries that their scores stay in its cache: they are never written to memory. The
// gradient computes them again, with the logarithm of each query's sum that the forward pass returns. The products are
// oneDNN's. No sum is shared between threads: any number of them gives the same bits.

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "onednn.h"
#include "threads.h"
#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace jaxkd {
namespace {

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;

constexpr int64_t kScores = 48 << 10;  // of one block: with their gradients 384 kB, which a core's second cache holds

// A matrix in row-major order, rows `stride` apart; `transposed` where its transpose takes part in a product.
struct Matrix {
  float* data;
  int64_t stride;
  bool transposed = false;
  Matrix T() const { return {data, stride, !transposed}; }
};

// How the arrays lie: [B, tokens, 3, heads, C] with queries, keys and values, and an empty one; or [B, queries, 1, heads,
// C] and [B, keys, 2, heads, C]. So queries are the first part of one, keys and values the last two of another or of it.
struct Sizes {
  int64_t queries, query_parts, keys, parts, heads, channels, tasks, blocks;
  Sizes(const Array& first, const Array& second) {
    const auto f = first.dimensions(), s = (second.element_count() ? second : first).dimensions();
    queries = f[1], query_parts = f[2], keys = s[1], parts = s[2], heads = f[3], channels = f[4], tasks = f[0] * heads;
    blocks = std::min((queries * keys + kScores - 1) / kScores, queries);
  }
  int64_t Start(int64_t block) const { return queries * block / blocks; }
  int64_t largest() const { return (queries + blocks - 1) / blocks; }
  // One head of one image, from a query or a key on.
  Matrix Query(const float* data, int64_t task, int64_t from) const {
    return Head(data, task, queries, query_parts, 0, from);
  }
  Matrix Key(const float* data, int64_t task) const { return Head(data, task, keys, parts, parts - 2, 0); }
  Matrix Value(const float* data, int64_t task) const { return Head(data, task, keys, parts, parts - 1, 0); }
  Matrix Mixed(const float* data, int64_t task, int64_t from) const { return Head(data, task, queries, 1, 0, from); }

 private:
  Matrix Head(const float* data, int64_t task, int64_t tokens, int64_t of, int64_t part, int64_t from) const {
    const int64_t row = of * heads * channels, start = (task / heads * tokens + from) * row;
    return {const_cast<float*>(data) + start + (part * heads + task % heads) * channels, row};
  }
};

// Calls `each(task, scratch)` for every head of every image, with room for so many arrays of a block's scores.
template <typename Each>
ffi::Error ForEachHead(const Sizes& sizes, int arrays, Each each) {
  std::atomic<bool> failed{false};
  const int64_t threads = std::min<int64_t>(AllThreads(), std::max<int64_t>(sizes.tasks, 1));
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scratch(arrays * sizes.largest() * sizes.keys);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < sizes.tasks; ++task)
      if (!each(task, scratch.data())) failed = true;
  }
  return failed ? ffi::Error::Internal("oneDNN: dnnl_sgemm failed") : ffi::Error::Success();
}

// c = alpha · a · b + beta · c, `c` of size [m, n], on the calling thread.
bool Product(int64_t m, int64_t n, int64_t k, float alpha, Matrix a, Matrix b, float beta, Matrix c) {
  return dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k, alpha, a.data, a.stride, b.data,
                    b.stride, beta, c.data, c.stride) == dnnl_success;
}

ffi::Error Forward(Array one, Array other, Result mixed, Result log_sums, float scale) {
  const Sizes s(one, other);
  const float* keys_values = (other.element_count() ? other : one).typed_data();
  return ForEachHead(s, 1, [&](int64_t task, float* scratch) {
    const Matrix k = s.Key(keys_values, task), v = s.Value(keys_values, task), scores{scratch, s.keys};
    bool fine = true;
    for (int64_t block = 0; block < s.blocks; ++block) {
      const int64_t first = s.Start(block), rows = s.Start(block + 1) - first;
      const Matrix q = s.Query(one.typed_data(), task, first), o = s.Mixed(mixed->typed_data(), task, first);
      float* log_sum = log_sums->typed_data() + task * s.queries + first;
      fine &= Product(rows, s.keys, s.channels, scale, q, k.T(), 0, scores);
      std::vector<float> factors(rows);
      for (int64_t row = 0; row < rows; ++row) {
        float* score = scratch + row * s.keys;
        float largest = -std::numeric_limits<float>::infinity(), sum = 0;
#pragma omp simd reduction(max : largest)
        for (int64_t i = 0; i < s.keys; ++i) largest = std::max(largest, score[i]);
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < s.keys; ++i) sum += score[i] = Exp(score[i] - largest);
        factors[row] = 1 / sum;
        log_sum[row] = largest + std::log(sum);
      }
      fine &= Product(rows, s.channels, s.keys, 1, scores, v, 0, o);
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < s.channels; ++i) o.data[row * o.stride + i] *= factors[row];
    }
    return fine;
  });
}

ffi::Error Gradient(Array one, Array other, Array mixed, Array log_sums, Array cotangent, Result of_one,
                    Result of_other, float scale) {
  const Sizes s(one, other);
  const bool apart = other.element_count();
  const float* keys_values = (apart ? other : one).typed_data();
  float* of_keys_values = (apart ? of_other : of_one)->typed_data();
  return ForEachHead(s, 2, [&](int64_t task, float* scratch) {
    const Matrix k = s.Key(keys_values, task), v = s.Value(keys_values, task);
    const Matrix dk = s.Key(of_keys_values, task), dv = s.Value(of_keys_values, task);
    float* gradients = scratch + s.largest() * s.keys;
    const Matrix weights{scratch, s.keys}, ds{gradients, s.keys};
    bool fine = true;
    for (int64_t block = 0; block < s.blocks; ++block) {
      const int64_t first = s.Start(block), rows = s.Start(block + 1) - first;
      const float before = block ? 1 : 0;  // what the gradients of keys and values are added to
      const Matrix q = s.Query(one.typed_data(), task, first), dq = s.Query(of_one->typed_data(), task, first);
      const Matrix o = s.Mixed(mixed.typed_data(), task, first), d_o = s.Mixed(cotangent.typed_data(), task, first);
      const float* log_sum = log_sums.typed_data() + task * s.queries + first;
      fine &= Product(rows, s.keys, s.channels, scale, q, k.T(), 0, weights);
      fine &= Product(rows, s.keys, s.channels, 1, d_o, v.T(), 0, ds);
      for (int64_t row = 0; row < rows; ++row) {
        float *weight = scratch + row * s.keys, *gradient = gradients + row * s.keys, mean = 0;
        const float *own = o.data + row * o.stride, *given = d_o.data + row * d_o.stride;
#pragma omp simd reduction(+ : mean)
        for (int64_t i = 0; i < s.channels; ++i) mean += own[i] * given[i];
#pragma omp simd
        for (int64_t i = 0; i < s.keys; ++i) {
          weight[i] = Exp(weight[i] - log_sum[row]);
          gradient[i] = weight[i] * (gradient[i] - mean);
        }
      }
      fine &= Product(s.keys, s.channels, rows, 1, weights.T(), d_o, before, dv);
      fine &= Product(s.keys, s.channels, rows, scale, ds.T(), q, before, dk);
      fine &= Product(rows, s.channels, s.keys, scale, ds, k, 0, dq);
    }
    return fine;
  });
}

}  // namespace
}  // namespace jaxkd

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxkd_attention, jaxkd::Forward,
                              xla::ffi::Ffi::Bind()
                                  .Arg<jaxkd::Array>()  // queries, or all three
                                  .Arg<jaxkd::Array>()  // keys and values, or nothing
                                  .Ret<jaxkd::Array>()  // attention
                                  .Ret<jaxkd::Array>()  // the logarithm of each query's sum, [B, heads, queries]
                                  .Attr<float>("scale"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxkd_attention_gradient, jaxkd::Gradient,
                              xla::ffi::Ffi::Bind()
                                  .Arg<jaxkd::Array>()  // queries, or all three
                                  .Arg<jaxkd::Array>()  // keys and values, or nothing
                                  .Arg<jaxkd::Array>()  // attention
                                  .Arg<jaxkd::Array>()  // logarithms of sums
                                  .Arg<jaxkd::Array>()  // cotangent
                                  .Ret<jaxkd::Array>()  // of the first
                                  .Ret<jaxkd::Array>()  // of the second
                                  .Attr<float>("scale"));
