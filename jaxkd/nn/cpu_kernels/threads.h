// How many threads share the work of a kernel.
#pragma once

#include <omp.h>

#include <cstdint>

namespace jaxkd {

constexpr int64_t kSmall = 1 << 14;  // elements from which on a second thread is worth waking

// All threads that this one may start. Each of them gets a share of the work, within oneDNN too, so that there have to be
// as many as were asked for: with OMP_DYNAMIC=true a busy machine would start fewer, and so would one with a lower
// OMP_THREAD_LIMIT, and the other shares would stay undone, or be waited for without end.
inline int AllThreads() {
  omp_set_dynamic(0);
  const int limit = omp_get_max_active_levels() < 1 ? 1 : omp_get_thread_limit();
  if (omp_get_max_threads() > limit) omp_set_num_threads(limit);
  return omp_get_max_threads();
}

inline int Threads(int64_t elements) { return elements < kSmall ? 1 : AllThreads(); }

}  // namespace jaxkd
