// Convolution, bias and ReLU in one pass over the images, and their gradients in another; float32, NHWC, VALID.
//
// A row of outputs is, for each row of the kernel, a matrix product whose left operand lies in memory as it is: the
// inputs under one row of a window are neighbours, and the next window starts `stride * channels` further. 3x3 kernels
// at stride 1 take two thirds as long by another algorithm (winograd.h).
// Letters: B batch, H W image, C channels, K kernel side, S stride, P Q outputs, F filters (a multiple of 16).

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "tiles.h"
#include "winograd.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

constexpr int kParts = 64;        // of a batch, whose sums are added in order: a result does not depend on threads
constexpr int kLinesAtOnce = 2;   // of outputs, while their inputs are in the nearest cache

// Bytes as float32 in `scratch`; float32 as it is.
const float* AsFloat(const float* x, ptrdiff_t, Aligned&) { return x; }
const float* AsFloat(const uint8_t* x, ptrdiff_t count, Aligned& scratch) {
  scratch.resize(count);
  std::copy(x, x + count, scratch.begin());
  return scratch.data();
}

// R neighbouring outputs, V vectors of each: what one row of the kernel, the first or the last, adds. `stride` is from
// one output to the next, and from one input's weights to the next's.
template <int R, int V>
void Outputs(const float* x, ptrdiff_t row, const float* weights, int count, ptrdiff_t stride, const float* bias,
             bool first, bool last, float* out) {
  Vector sums[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) sums[r][v] = Load(first ? bias + v * kLanes : out + r * stride + v * kLanes);
  }
  Multiply(x, row, 1, weights, stride, count, sums);
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      const Vector sum = sums[r][v];
      Store(out + r * stride + v * kLanes, last ? (sum < 0.0f ? Vector{} : sum) : sum);  // NaN stays NaN
    }
  }
}

// Outputs of rows `from` to `to` of one image.
template <typename T>
void Forward(const Shape& s, const T* x, const float* kernel, const float* bias, int from, int to, float* y) {
  thread_local Aligned scratch;
  const int lines = (to - from - 1) * s.stride + s.side, step = s.stride * s.channels;
  const float* in = AsFloat(x + from * s.stride * s.Line(), lines * s.Line(), scratch);
  for (int line = from; line < to; ++line) {
    for (int tap = 0; tap < s.side; ++tap) {
      const float* inputs = in + ((line - from) * s.stride + tap) * s.Line();
      const float* weights = kernel + ptrdiff_t{tap} * s.Row() * s.filters;
      OfFilters(s.filters, s.out_width, [&](int f, int start, auto size, auto vectors) {
        Outputs<size(), vectors()>(inputs + ptrdiff_t{start} * step, step, weights + f, s.Row(), s.filters, bias + f,
                                   tap == 0, tap == s.side - 1,
                                   y + line * s.OutLine() + ptrdiff_t{start} * s.filters + f);
      });
    }
  }
}

// The gradient before the ReLU; its sum is added to `bias`.
void Mask(const Shape& s, const float* y, const float* gradient, float* masked, float* bias) {
  for (int f = 0; f < s.filters; f += kLanes) {
    Vector sum{};
    for (ptrdiff_t at = f; at < s.Outputs(); at += s.filters) {
      const Vector value = Load(y + at) > 0.0f ? Load(gradient + at) : Vector{};
      Store(masked + at, value);
      sum += value;
    }
    Store(bias + f, Load(bias + f) + sum);
  }
}

// Of one image: added to the gradients of kernel and bias.
template <typename T>
void Backward(const Shape& s, const T* x, const float* y, const float* gradient, float* kernel, float* bias) {
  thread_local Aligned masked, scratch;
  const ptrdiff_t line = s.OutLine();
  masked.resize(s.Outputs());
  Mask(s, y, gradient, masked.data(), bias);
  for (int from = 0; from < s.out_height; from += kLinesAtOnce) {
    const int lines = std::min(kLinesAtOnce, s.out_height - from);
    const float* in = AsFloat(x + from * s.stride * s.Line(), ((lines - 1) * s.stride + s.side) * s.Line(), scratch);
    const float* here = masked.data() + from * line;
    for (int tap = 0; tap < s.side; ++tap) {
      OfFilters(s.filters, s.Row(), [&](int f, int start, auto size, auto vectors) {
        Weights<size(), vectors()>(in + tap * s.Line() + start, s.stride * s.channels, s.stride * s.Line(), here + f,
                                   s.filters, line, s.out_width, lines,
                                   kernel + (ptrdiff_t{tap} * s.Row() + start) * s.filters + f);
      });
    }
  }
}

// Runs work(i) for i < count on XLA's threads and this one. It waits only for what has been started: a pool whose
// threads are all busy, perhaps waiting here themselves, holds nothing up.
template <typename F>
void InParallel(ffi::ThreadPool& pool, int count, F&& work) {
  struct Progress {
    std::atomic<int> next{0}, done{0};
  };
  auto progress = std::make_shared<Progress>();
  auto run = [progress, count, &work] {
    for (int i; (i = progress->next.fetch_add(1)) < count;) {
      work(i);
      progress->done.fetch_add(1, std::memory_order_release);
    }
  };
  const int helpers = std::min<int>(pool.num_threads(), count) - 1;
  for (int i = 0; i < helpers; ++i) pool.Schedule([run] { run(); });
  run();
  while (progress->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
}

using Floats = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Floats>;

Shape ShapeOf(const ffi::AnyBuffer& x, const Floats& kernel, int64_t stride) {
  const auto images = x.dimensions(), weights = kernel.dimensions();
  Shape s;
  s.batch = images[0], s.height = images[1], s.width = images[2], s.channels = images[3];
  s.side = weights[0], s.filters = weights[3], s.stride = stride;
  s.out_height = (s.height - s.side) / s.stride + 1, s.out_width = (s.width - s.side) / s.stride + 1;
  return s;
}

template <typename F>
ffi::Error OfType(const ffi::AnyBuffer& x, F&& call) {
  if (x.element_type() == ffi::F32) {
    call(x.typed_data<float>());
  } else if (x.element_type() == ffi::U8) {
    call(x.typed_data<uint8_t>());
  } else {
    return ffi::Error::InvalidArgument("images must be float32 or uint8");
  }
  return ffi::Error::Success();
}

// Few images are cut into parts, of an even number of output rows.
ffi::Error ForwardCall(ffi::ThreadPool pool, int64_t stride, ffi::AnyBuffer x, Floats kernel, Floats bias, Result y) {
  const Shape s = ShapeOf(x, kernel, stride);
  const int lines = (std::clamp(s.out_height * s.batch / kParts, 1, s.out_height) + 1) / 2 * 2;
  const int tasks = (s.out_height + lines - 1) / lines;
  const bool tiled = winograd::Fits(s) && x.element_type() == ffi::F32;
  Aligned transformed;
  if (tiled) transformed = winograd::Transformed(kernel.typed_data(), s.channels, s.filters);
  return OfType(x, [&](const auto* images) {
    InParallel(pool, s.batch * tasks, [&](int i) {
      const int image = i / tasks, from = i % tasks * lines, to = std::min(from + lines, s.out_height);
      float* own = y->typed_data() + image * s.Outputs();
      if (tiled) {
        const float* x_own = x.typed_data<float>() + image * s.Inputs();
        winograd::Forward(s, x_own, transformed.data(), bias.typed_data(), from / 2, (to + 1) / 2, own);
      } else {
        Forward(s, images + image * s.Inputs(), kernel.typed_data(), bias.typed_data(), from, to, own);
      }
    });
  });
}

ffi::Error Gradients(ffi::ThreadPool& pool, int64_t stride, ffi::AnyBuffer& x, Floats& kernel, Floats& y,
                     Floats& gradient, Result& of_kernel, Result& of_bias, float* of_x) {
  const Shape s = ShapeOf(x, kernel, stride);
  const ptrdiff_t size = s.KernelSize() + s.filters;
  const int parts = std::min(kParts, s.batch);
  const bool tiled = winograd::Fits(s) && x.element_type() == ffi::F32;
  if (of_x != nullptr && !tiled) return ffi::Error::InvalidArgument("no gradient of such images");
  Aligned sums(parts * size), transposed;
  if (of_x != nullptr) {
    transposed = winograd::Transposed(winograd::Transformed(kernel.typed_data(), s.channels, s.filters), s.channels,
                                      s.filters);
  }
  ffi::Error error = OfType(x, [&](const auto* images) {
    InParallel(pool, parts, [&](int part) {
      float *own = sums.data() + part * size, *own_bias = own + s.KernelSize();
      const int from = int64_t{part} * s.batch / parts, to = int64_t{part + 1} * s.batch / parts;
      if (tiled) {
        winograd::Backward(s, x.typed_data<float>(), transposed.data(), y.typed_data(), gradient.typed_data(), from, to,
                           own, own_bias, of_x);
        return;
      }
      for (int image = from; image < to; ++image) {
        Backward(s, images + image * s.Inputs(), y.typed_data() + image * s.Outputs(),
                 gradient.typed_data() + image * s.Outputs(), own, own_bias);
      }
    });
  });
  for (int part = 1; part < parts; ++part) {
    for (ptrdiff_t i = 0; i < size; ++i) sums[i] += sums[part * size + i];
  }
  std::copy_n(sums.data(), s.KernelSize(), of_kernel->typed_data());
  std::copy_n(sums.data() + s.KernelSize(), s.filters, of_bias->typed_data());
  return error;
}

ffi::Error GradientsCall(ffi::ThreadPool pool, int64_t stride, ffi::AnyBuffer x, Floats kernel, Floats y,
                         Floats gradient, Result of_kernel, Result of_bias) {
  return Gradients(pool, stride, x, kernel, y, gradient, of_kernel, of_bias, nullptr);
}

ffi::Error GradientsCallWithX(ffi::ThreadPool pool, int64_t stride, ffi::AnyBuffer x, Floats kernel, Floats y,
                              Floats gradient, Result of_kernel, Result of_bias, Result of_x) {
  return Gradients(pool, stride, x, kernel, y, gradient, of_kernel, of_bias, of_x->typed_data());
}

auto GradientsBinding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<int64_t>("stride")
      .Arg<ffi::AnyBuffer>()
      .Arg<Floats>()
      .Arg<Floats>()
      .Arg<Floats>()
      .Ret<Floats>()
      .Ret<Floats>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(covr_convolution, ForwardCall,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<int64_t>("stride")
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(covr_convolution_gradients, GradientsCall, GradientsBinding());

XLA_FFI_DEFINE_HANDLER_SYMBOL(covr_convolution_gradients_with_x, GradientsCallWithX, GradientsBinding().Ret<Floats>());
