// How many threads share the work of a kernel.
#pragma once

#include <omp.h>

#include <cstdint>

namespace jaxkd {

constexpr int64_t kSmall = 1 << 14;  // elements from which on a second thread is worth waking

inline int Threads(int64_t elements) { return elements < kSmall ? 1 : omp_get_max_threads(); }

}  // namespace jaxkd
