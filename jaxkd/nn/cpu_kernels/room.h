// Room for what a kernel works on, kept by each thread from call to call.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace jaxkd {

class Room {
 public:
  Room() = default;
  Room(const Room&) = delete;
  ~Room() { std::free(data_); }
  // Returns so many bytes; what was there before is gone.
  void* Get(size_t bytes) {
    if (size_ < bytes) {
      std::free(data_);
      size_ = (bytes + 63) / 64 * 64;
      data_ = std::aligned_alloc(64, size_);
      if (!data_) {
        size_ = 0;
        throw std::bad_alloc();
      }
    }
    return data_;
  }
  float* Floats(size_t count) { return static_cast<float*>(Get(count * sizeof(float))); }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace jaxkd
