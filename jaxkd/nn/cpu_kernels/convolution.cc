// Convolution and its two gradients by oneDNN, as handlers that XLA calls on the CPU.
//
// Images are [N, H, W, C], kernels [kh, kw, C / groups, O], as everywhere in jaxkd. oneDNN takes images as they lie;
// kernels are brought into the order it computes in, at every call, since they change at every step and are small.
// Plans (a primitive and the orders it wants) are made once for each shape and kept for the life of the process.

#include <omp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "convolution_3x3.h"
#include "onednn.h"
#include "room.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace jaxkd {
namespace {

namespace ffi = xla::ffi;

void Check(dnnl_status_t status, const char* what) {
  if (status != dnnl_success)
    throw std::runtime_error(std::string("oneDNN: ") + what + " returned status " + std::to_string(status));
}

dnnl_engine_t Engine() {
  static dnnl_engine_t engine = [] {
    dnnl_engine_t made;
    Check(dnnl_engine_create(&made, dnnl_cpu, 0), "dnnl_engine_create");
    return made;
  }();
  return engine;
}

dnnl_stream_t Stream() {
  thread_local dnnl_stream_t stream = [] {
    AllThreads();  // for what oneDNN starts from this thread
    dnnl_stream_t made;
    Check(dnnl_stream_create(&made, Engine(), dnnl_stream_in_order), "dnnl_stream_create");
    return made;
  }();
  return stream;
}

// A memory descriptor that is destroyed with its owner.
class Desc {
 public:
  static Desc Strided(int rank, const dnnl_dims_t dims, int type, const dnnl_dims_t strides) {
    Desc desc;
    Check(dnnl_memory_desc_create_with_strides(&desc.desc_, rank, dims, type, strides), "a memory description");
    return desc;
  }
  static Desc Any(int rank, const dnnl_dims_t dims, int type) {
    Desc desc;
    Check(dnnl_memory_desc_create_with_tag(&desc.desc_, rank, dims, type, dnnl_format_tag_any),
          "a memory description");
    return desc;
  }
  static Desc Copy(const dnnl_memory_desc* other) {
    Desc desc;
    Check(dnnl_memory_desc_clone(&desc.desc_, other), "dnnl_memory_desc_clone");
    return desc;
  }
  Desc() = default;
  Desc(Desc&& other) noexcept : desc_(std::exchange(other.desc_, nullptr)) {}
  Desc& operator=(Desc&& other) noexcept {
    std::swap(desc_, other.desc_);
    return *this;
  }
  ~Desc() {
    if (desc_) dnnl_memory_desc_destroy(desc_);
  }
  const dnnl_memory_desc* get() const { return desc_; }

 private:
  dnnl_memory_desc_t desc_ = nullptr;
};

// An array under a descriptor, for the time of a call.
class Memory {
 public:
  Memory(const Desc& desc, const void* data) {
    Check(dnnl_memory_create(&memory_, desc.get(), Engine(), const_cast<void*>(data)), "dnnl_memory_create");
  }
  Memory(const Memory&) = delete;
  ~Memory() { dnnl_memory_destroy(memory_); }
  dnnl_memory_t get() const { return memory_; }

 private:
  dnnl_memory_t memory_;
};

// How a primitive is made: each call brings its own room to work in. oneDNN's would be one for all calls, and XLA
// calls for equal layers from several threads at once.
class Attributes {
 public:
  Attributes() {
    Check(dnnl_primitive_attr_create(&attributes_), "dnnl_primitive_attr_create");
    Check(dnnl_primitive_attr_set_scratchpad_mode(attributes_, dnnl_scratchpad_mode_user), "a scratchpad of ours");
  }
  Attributes(const Attributes&) = delete;
  ~Attributes() { dnnl_primitive_attr_destroy(attributes_); }
  void AddToOutputs() {
    dnnl_post_ops_t operations;
    Check(dnnl_post_ops_create(&operations), "dnnl_post_ops_create");
    Check(dnnl_post_ops_append_sum(operations, 1.0f, 0, 0), "dnnl_post_ops_append_sum");
    Check(dnnl_primitive_attr_set_post_ops(attributes_, operations), "dnnl_primitive_attr_set_post_ops");
    dnnl_post_ops_destroy(operations);
  }
  dnnl_primitive_attr_t get() const { return attributes_; }

 private:
  dnnl_primitive_attr_t attributes_;
};

// What oneDNN computes; several threads may call it at once.
class Primitive {
 public:
  Primitive() = default;
  explicit Primitive(dnnl_primitive_desc_t desc)
      : scratchpad_(Desc::Copy(dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0))),
        bytes_(dnnl_memory_desc_get_size(scratchpad_.get())) {
    Check(dnnl_primitive_create(&primitive_, desc), "dnnl_primitive_create");
    dnnl_primitive_desc_destroy(desc);
  }
  void Run(std::initializer_list<dnnl_exec_arg_t> given, const char* what) const {
    thread_local Room room;
    std::array<dnnl_exec_arg_t, 5> args;
    int count = static_cast<int>(std::copy(given.begin(), given.end(), args.begin()) - args.begin());
    const Memory scratchpad(scratchpad_, bytes_ ? room.Get(bytes_) : nullptr);
    if (bytes_) args[count++] = {DNNL_ARG_SCRATCHPAD, scratchpad.get()};
    Check(dnnl_primitive_execute(primitive_, Stream(), count, args.data()), what);
  }

 private:
  Desc scratchpad_;
  size_t bytes_ = 0;
  dnnl_primitive_t primitive_ = nullptr;
};

// Keeps oneDNN to this thread while it lives: waking another takes longer than a small kernel's reordering.
class Alone {
 public:
  explicit Alone(bool wanted) : threads_(wanted ? AllThreads() : 0) {
    if (threads_) omp_set_num_threads(1);
  }
  Alone(const Alone&) = delete;
  ~Alone() {
    if (threads_) omp_set_num_threads(threads_);
  }

 private:
  int threads_;
};

// From one order of a kernel's elements to another; not needed where both are the same.
class Reorder {
 public:
  Reorder() = default;
  Reorder(const Desc& from, const Desc& to) {
    if (dnnl_memory_desc_equal(from.get(), to.get())) return;
    dnnl_primitive_desc_t desc;
    const Attributes attributes;
    Check(dnnl_reorder_primitive_desc_create(&desc, from.get(), Engine(), to.get(), Engine(), attributes.get()),
          "a reorder");
    primitive_.emplace(desc);
    small_ = dnnl_memory_desc_get_size(from.get()) < kSmallKernel;
  }
  bool needed() const { return primitive_.has_value(); }
  void Run(const Memory& from, const Memory& to) const {
    const Alone alone(small_);
    primitive_->Run({{DNNL_ARG_SRC, from.get()}, {DNNL_ARG_DST, to.get()}}, "a reorder");
  }

 private:
  static constexpr size_t kSmallKernel = 1 << 20;  // bytes
  std::optional<Primitive> primitive_;
  bool small_ = false;
};

// Room for a reordered kernel: as large as the largest that the thread has met.
void* Scratch(size_t bytes) {
  thread_local Room room;
  return room.Get(bytes);
}

enum Kind : int64_t { kForward, kInputGradient, kKernelGradient };

// All that a primitive depends on.
struct Shape {
  int64_t kind, type, kernel_type, batch, height, width, inputs, outputs, rows, columns, out_height, out_width;
  int64_t stride, padding, groups, bias, residual;
  std::array<int64_t, 17> key() const {
    return {kind,      type,   kernel_type, batch,  height, width, inputs,  outputs, rows, columns, out_height,
            out_width, stride, padding,     groups, bias,   residual};
  }
};

struct Plan {
  Desc images, kernel, kernel_inside, bias, outputs;
  Reorder reorder;
  std::optional<Primitive> primitive;

  explicit Plan(const Shape& s) {
    images = Images(s.batch, s.inputs, s.height, s.width, s.type);
    outputs = Images(s.batch, s.outputs, s.out_height, s.out_width, s.type);
    const int64_t in = s.inputs / s.groups, out = s.outputs / s.groups;
    const dnnl_dims_t sizes = {s.groups, out, in, s.rows, s.columns};
    const dnnl_dims_t steps = {out, 1, s.outputs, s.columns * in * s.outputs, in * s.outputs};
    const int grouped = s.groups > 1, rank = 4 + grouped, skip = 1 - grouped;
    kernel = Desc::Strided(rank, sizes + skip, s.kernel_type, steps + skip);
    // oneDNN sums a kernel's gradient in float32 whatever the images are; what it computes from is of their type.
    const int inside_type = s.kind == kKernelGradient ? dnnl_f32 : s.type;
    const Desc any = Desc::Any(rank, sizes + skip, inside_type);
    const dnnl_dims_t width = {s.outputs}, one = {1};
    if (s.bias) bias = Desc::Strided(1, width, dnnl_f32, one);

    const dnnl_dims_t strides = {s.stride, s.stride}, dilates = {0, 0}, before = {s.padding, s.padding};
    const dnnl_dims_t after = {(s.out_height - 1) * s.stride + s.rows - s.height - s.padding,
                               (s.out_width - 1) * s.stride + s.columns - s.width - s.padding};
    dnnl_primitive_desc_t forward = nullptr, desc = nullptr;
    Attributes attributes;
    if (s.residual) attributes.AddToOutputs();
    const Desc forward_kernel = Desc::Any(rank, sizes + skip, s.type);
    Check(dnnl_convolution_forward_primitive_desc_create(
              &forward, Engine(), dnnl_forward_training, dnnl_convolution_direct, images.get(), forward_kernel.get(),
              bias.get(), outputs.get(), strides, dilates, before, after, attributes.get()),
          "a convolution");
    if (s.kind == kForward) {
      desc = forward;
    } else if (s.kind == kInputGradient) {
      Check(dnnl_convolution_backward_data_primitive_desc_create(&desc, Engine(), dnnl_convolution_direct,
                                                                 images.get(), any.get(), outputs.get(), strides,
                                                                 dilates, before, after, forward, attributes.get()),
            "a convolution's input gradient");
    } else {
      Check(dnnl_convolution_backward_weights_primitive_desc_create(
                &desc, Engine(), dnnl_convolution_direct, images.get(), any.get(), nullptr, outputs.get(), strides,
                dilates, before, after, forward, attributes.get()),
            "a convolution's kernel gradient");
    }
    const int weights = s.kind == kKernelGradient ? dnnl_query_diff_weights_md : dnnl_query_weights_md;
    kernel_inside = Desc::Copy(dnnl_primitive_desc_query_md(desc, weights, 0));
    if (forward != desc) dnnl_primitive_desc_destroy(forward);
    primitive.emplace(desc);
    reorder = s.kind == kKernelGradient ? Reorder(kernel_inside, kernel) : Reorder(kernel, kernel_inside);
  }

  static Desc Images(int64_t batch, int64_t channels, int64_t height, int64_t width, int type) {
    const dnnl_dims_t dims = {batch, channels, height, width};
    const dnnl_dims_t strides = {height * width * channels, 1, width * channels, channels};
    return Desc::Strided(4, dims, type, strides);
  }
};

// XLA calls from several threads; making a plan is rare and may wait for another.
const Plan& PlanFor(const Shape& shape) {
  static std::mutex mutex;
  static auto& plans = *new std::map<std::array<int64_t, 17>, std::unique_ptr<Plan>>;
  AllThreads();  // for how many oneDNN plans
  const std::lock_guard<std::mutex> lock(mutex);
  auto& plan = plans[shape.key()];
  if (!plan) plan = std::make_unique<Plan>(shape);
  return *plan;
}

int Type(ffi::DataType type) {
  if (type == ffi::F32) return dnnl_f32;
  if (type == ffi::BF16) return dnnl_bf16;
  throw std::runtime_error("a convolution of a type other than float32 and bfloat16");
}

Shape ShapeOf(Kind kind, const ffi::AnyBuffer& images, const ffi::AnyBuffer& kernel, const ffi::AnyBuffer& outputs,
              int64_t stride, int64_t padding, int64_t groups) {
  const auto i = images.dimensions(), k = kernel.dimensions(), o = outputs.dimensions();
  return {kind, Type(images.element_type()), Type(kernel.element_type()), i[0], i[1], i[2], i[3],   o[3],
          k[0], k[1],                        o[1],                        o[2], stride, padding, groups, 0, 0};
}

// Runs what may throw; XLA gets the reason as an error of the step.
template <typename Body>
ffi::Error Guarded(Body body) {
  try {
    body();
    return ffi::Error::Success();
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  }
}

// Whether it is a 3×3 convolution of stride 1 of such types, and which.
bool Is3x3(const Shape& s, int type, int kernel_type, Convolution3x3& found) {
  found = {s.batch, s.height, s.width, s.inputs, s.outputs, s.padding};
  return s.type == type && s.kernel_type == kernel_type && s.rows == 3 && s.columns == 3 && s.stride == 1 &&
         s.groups == 1;
}

bool ByWinograd(const Shape& s, Convolution3x3& found) {
  const auto serves = s.kind == kKernelGradient ? WinogradServesKernelGradient : WinogradServes;
  return Is3x3(s, dnnl_f32, dnnl_f32, found) && serves(found);
}

bool ByAmx(const Shape& s, Convolution3x3& found) {
  const auto serves = s.kind == kKernelGradient ? AmxServesKernelGradient : AmxServes;
  return Is3x3(s, dnnl_bf16, dnnl_f32, found) && serves(found);
}

// The numbers of an array, or null where there are none; those in bfloat16 as uint16_t.
template <typename T>
T* Numbers(const ffi::AnyBuffer& array) {
  return array.element_count() ? static_cast<T*>(array.untyped_data()) : nullptr;
}

// Calls `body` with a kernel in the order that the plan's primitive wants.
template <typename Body>
void WithKernel(const Plan& plan, const void* kernel, Body body) {
  const Memory outside(plan.kernel, kernel);
  if (!plan.reorder.needed()) return body(outside.get());
  const Memory inside(plan.kernel_inside, Scratch(dnnl_memory_desc_get_size(plan.kernel_inside.get())));
  plan.reorder.Run(outside, inside);
  body(inside.get());
}

// Sets what is below zero to zero. oneDNN's own ReLU makes a zero of NaN, too.
template <typename T, typename Below>
void Relu(T* values, int64_t elements, Below below) {
#pragma omp parallel for simd schedule(static) num_threads(Threads(elements))
  for (int64_t i = 0; i < elements; ++i) values[i] = below(values[i]) ? T{0} : values[i];
}

void Relu(const ffi::AnyBuffer& values) {
  const int64_t elements = values.element_count();
  if (values.element_type() == ffi::F32)
    return Relu(Numbers<float>(values), elements, [](float value) { return value < 0; });
  // bfloat16, by its bits: negative, and no larger than infinity.
  Relu(Numbers<uint16_t>(values), elements, [](uint16_t bits) { return bits >= 0x8000 && bits <= 0xff80; });
}

// outputs = relu(images ∗ kernel + bias + residual), each of the last three where asked for. The residual's buffer is
// that of the outputs; without one, an empty array stands in its place, as for the bias.
ffi::Error Forward(ffi::AnyBuffer images, ffi::AnyBuffer kernel, ffi::AnyBuffer bias, ffi::AnyBuffer residual,
                   ffi::Result<ffi::AnyBuffer> outputs, int64_t stride, int64_t padding, int64_t groups, bool relu) {
  return Guarded([&] {
    Shape shape = ShapeOf(kForward, images, kernel, *outputs, stride, padding, groups);
    shape.bias = bias.element_count() > 0;
    shape.residual = residual.element_count() > 0;
    Convolution3x3 served;
    if (ByWinograd(shape, served))
      return WinogradForward(served, Numbers<float>(images), Numbers<float>(kernel), Numbers<float>(bias),
                             Numbers<float>(residual), relu, Numbers<float>(*outputs));
    if (ByAmx(shape, served))
      return AmxForward(served, Numbers<uint16_t>(images), Numbers<float>(kernel), Numbers<float>(bias),
                        Numbers<uint16_t>(residual), relu, Numbers<uint16_t>(*outputs));
    if (shape.residual && residual.untyped_data() != outputs->untyped_data())
      std::memcpy(outputs->untyped_data(), residual.untyped_data(), outputs->size_bytes());
    const Plan& plan = PlanFor(shape);
    const Memory in(plan.images, images.untyped_data()), out(plan.outputs, outputs->untyped_data());
    WithKernel(plan, kernel.untyped_data(), [&](dnnl_memory_t weights) {
      const dnnl_exec_arg_t source{DNNL_ARG_SRC, in.get()}, read{DNNL_ARG_WEIGHTS, weights}, made{DNNL_ARG_DST, out.get()};
      if (!shape.bias) return plan.primitive->Run({source, read, made}, "a convolution");
      const Memory added(plan.bias, bias.untyped_data());
      plan.primitive->Run({source, read, made, {DNNL_ARG_BIAS, added.get()}}, "a convolution");
    });
    if (relu) Relu(*outputs);
  });
}

ffi::Error InputGradient(ffi::AnyBuffer kernel, ffi::AnyBuffer cotangent, ffi::Result<ffi::AnyBuffer> gradient,
                         int64_t stride, int64_t padding, int64_t groups) {
  return Guarded([&] {
    const Shape shape = ShapeOf(kInputGradient, *gradient, kernel, cotangent, stride, padding, groups);
    Convolution3x3 served;
    if (ByWinograd(shape, served))
      return WinogradInputGradient(served, Numbers<float>(kernel), Numbers<float>(cotangent), Numbers<float>(*gradient));
    if (ByAmx(shape, served))
      return AmxInputGradient(served, Numbers<float>(kernel), Numbers<uint16_t>(cotangent), Numbers<uint16_t>(*gradient));
    const Plan& plan = PlanFor(shape);
    const Memory out(plan.outputs, cotangent.untyped_data()), in(plan.images, gradient->untyped_data());
    WithKernel(plan, kernel.untyped_data(), [&](dnnl_memory_t weights) {
      plan.primitive->Run(
          {{DNNL_ARG_DIFF_DST, out.get()}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DIFF_SRC, in.get()}},
          "a convolution's input gradient");
    });
  });
}

ffi::Error KernelGradient(ffi::AnyBuffer images, ffi::AnyBuffer cotangent, ffi::Result<ffi::AnyBuffer> gradient,
                          int64_t stride, int64_t padding, int64_t groups) {
  return Guarded([&] {
    const Shape shape = ShapeOf(kKernelGradient, images, *gradient, cotangent, stride, padding, groups);
    Convolution3x3 served;
    if (ByWinograd(shape, served))
      return WinogradKernelGradient(served, Numbers<float>(images), Numbers<float>(cotangent), Numbers<float>(*gradient));
    if (ByAmx(shape, served))
      return AmxKernelGradient(served, Numbers<uint16_t>(images), Numbers<uint16_t>(cotangent), Numbers<float>(*gradient));
    const Plan& plan = PlanFor(shape);
    const Memory in(plan.images, images.untyped_data()), out(plan.outputs, cotangent.untyped_data());
    const Memory outside(plan.kernel, gradient->untyped_data());
    const bool needed = plan.reorder.needed();
    const size_t size = dnnl_memory_desc_get_size(plan.kernel_inside.get());
    const Memory inside(plan.kernel_inside, needed ? Scratch(size) : gradient->untyped_data());
    plan.primitive->Run(
        {{DNNL_ARG_SRC, in.get()}, {DNNL_ARG_DIFF_DST, out.get()}, {DNNL_ARG_DIFF_WEIGHTS, inside.get()}},
        "a convolution's kernel gradient");
    if (needed) plan.reorder.Run(inside, outside);
  });
}

}  // namespace
}  // namespace jaxkd

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxkd_convolution, jaxkd::Forward,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::AnyBuffer>()  // images
                                  .Arg<xla::ffi::AnyBuffer>()  // kernel
                                  .Arg<xla::ffi::AnyBuffer>()  // bias, float32
                                  .Arg<xla::ffi::AnyBuffer>()  // residual
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("padding")
                                  .Attr<int64_t>("groups")
                                  .Attr<bool>("relu"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxkd_convolution_input_gradient, jaxkd::InputGradient,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::AnyBuffer>()  // kernel
                                  .Arg<xla::ffi::AnyBuffer>()  // cotangent
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("padding")
                                  .Attr<int64_t>("groups"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxkd_convolution_kernel_gradient, jaxkd::KernelGradient,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::AnyBuffer>()  // images
                                  .Arg<xla::ffi::AnyBuffer>()  // cotangent
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("padding")
                                  .Attr<int64_t>("groups"));

extern "C" int jaxkd_threads() { return jaxkd::AllThreads(); }
extern "C" int jaxkd_winograd() { return jaxkd::WinogradServes({64, 32, 32, 16, 16, 1}); }
extern "C" int jaxkd_amx() { return jaxkd::AmxServes({64 * jaxkd::AllThreads(), 32, 32, 16, 16, 1}); }
