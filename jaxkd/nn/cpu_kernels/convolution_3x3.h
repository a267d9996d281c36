// 3×3 convolutions of stride 1, where something is faster than oneDNN: winograd.cc in float32, amx.cc in bfloat16.
#pragma once

#include <cstdint>

namespace jaxkd {

struct Convolution3x3 {
  int64_t batch, height, width, inputs, outputs, padding;
  int64_t out_height() const { return height + 2 * padding - 2; }
  int64_t out_width() const { return width + 2 * padding - 2; }
  // What brings cotangents back: a convolution with the kernel turned by 180°, its inputs and outputs exchanged.
  Convolution3x3 back() const { return {batch, out_height(), out_width(), outputs, inputs, 2 - padding}; }
};

// Whether this processor gains by it; the functions below are for convolutions of which this is true.
bool WinogradServes(const Convolution3x3& shape);
bool WinogradServesKernelGradient(const Convolution3x3& shape);
bool AmxServes(const Convolution3x3& shape);
bool AmxServesKernelGradient(const Convolution3x3& shape);

// outputs = relu(images ∗ kernel + bias + residual); bias and residual may be null, the residual may lie in outputs.
void WinogradForward(const Convolution3x3& shape, const float* images, const float* kernel, const float* bias,
                     const float* residual, bool relu, float* outputs);

void WinogradInputGradient(const Convolution3x3& shape, const float* kernel, const float* cotangent, float* gradient);

void WinogradKernelGradient(const Convolution3x3& shape, const float* images, const float* cotangent, float* gradient);

// The same with images, residuals, outputs and cotangents in bfloat16, of which these are the bits.
void AmxForward(const Convolution3x3& shape, const uint16_t* images, const float* kernel, const float* bias,
                const uint16_t* residual, bool relu, uint16_t* outputs);

void AmxInputGradient(const Convolution3x3& shape, const float* kernel, const uint16_t* cotangent, uint16_t* gradient);

void AmxKernelGradient(const Convolution3x3& shape, const uint16_t* images, const uint16_t* cotangent, float* gradient);

}  // namespace jaxkd
