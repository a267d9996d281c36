// The product of two matrices by oneDNN, as a handler that XLA calls on the CPU.

#include <algorithm>

#include "onednn.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace jaxkd {
namespace {

namespace ffi = xla::ffi;
using Matrix = ffi::BufferR2<ffi::F32>;

// out = op(a) · op(b) + bias, where `op` transposes what it is told to, and an empty bias stands for none.
ffi::Error Product(Matrix a, Matrix b, ffi::BufferR1<ffi::F32> bias, ffi::Result<Matrix> out, bool transpose_a,
                   bool transpose_b) {
  const auto sizes = out->dimensions(), left = a.dimensions(), right = b.dimensions();
  const bool adds = bias.element_count() > 0;
  const int threads = AllThreads();
  if (adds) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < sizes[0]; ++row)
      std::copy_n(bias.typed_data(), sizes[1], out->typed_data() + row * sizes[1]);
  }
  const dnnl_status_t status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', sizes[0], sizes[1],
                                          left[transpose_a ? 0 : 1], 1, a.typed_data(), left[1], b.typed_data(),
                                          right[1], adds ? 1 : 0, out->typed_data(), sizes[1]);
  return status == dnnl_success ? ffi::Error::Success() : ffi::Error::Internal("oneDNN: dnnl_sgemm failed");
}

}  // namespace
}  // namespace jaxkd

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxkd_product, jaxkd::Product,
                              xla::ffi::Ffi::Bind()
                                  .Arg<jaxkd::Matrix>()                           // a
                                  .Arg<jaxkd::Matrix>()                           // b
                                  .Arg<xla::ffi::BufferR1<xla::ffi::F32>>()       // bias
                                  .Ret<jaxkd::Matrix>()
                                  .Attr<bool>("transpose_a")
                                  .Attr<bool>("transpose_b"));
