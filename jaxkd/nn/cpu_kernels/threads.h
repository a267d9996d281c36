// How many threads share the work of a kernel.
#pragma once

#include <omp.h>

#include <cstdint>

namespace jaxkd {

constexpr int64_t kSmall = 1 << 14;  // elements from which on a second thread is worth waking

inline int Threads(int64_t elements) {
  omp_set_dynamic(0);  // with OMP_DYNAMIC=true there would be fewer than those that are told their share of the work
  return elements < kSmall ? 1 : omp_get_max_threads();
}

}  // namespace jaxkd
