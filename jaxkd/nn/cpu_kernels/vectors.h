// Functions of single numbers, written so that compilers turn loops over them into vector instructions.
#pragma once

#include <cstdint>
#include <cstring>

namespace jaxkd {

// e^x for x that is not far above 0; at most 2 units in the last place off.
inline float Exp(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: what is added to it is rounded to an integer, in the low bits
  x = x < -87.0f ? -87.0f : x;           // the smallest normal number; NaN stays NaN
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;  // x − n·ln 2, which is in ±0.35
  float p = 1.98756915e-4f;  // Cephes' polynomial for (e^r − 1 − r) / r²
  p = p * r + 1.39819995e-3f;
  p = p * r + 8.33345191e-3f;
  p = p * r + 4.16657959e-2f;
  p = p * r + 1.66666655e-1f;
  p = p * r + 5.00000012e-1f;
  float y = p * r * r + r + 1.0f;
  int32_t bits, power;
  std::memcpy(&bits, &y, sizeof(bits));
  std::memcpy(&power, &shifted, sizeof(power));
  bits += static_cast<int32_t>(static_cast<uint32_t>(power) << 23);  // times 2^n
  std::memcpy(&y, &bits, sizeof(y));
  return y;
}

}  // namespace jaxkd
