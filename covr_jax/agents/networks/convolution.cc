// Convolution, bias and ReLU in one pass over the images, and their gradients in another; float32, NHWC, VALID.
//
// A row of outputs is, for each row of the kernel, a matrix product whose left operand lies in memory as it is: the
// inputs under one row of a window are neighbours, and the next window starts `stride * channels` further. So nothing
// is packed or copied, and the products run in registers, kMostRows windows by kFilters filters at a time; the last 16
// of an odd multiple of 16 with twice the windows.
// Letters: B batch, H W image, C channels, K kernel side, S stride, P Q outputs, F filters (a multiple of 16).

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

constexpr int kFilters = 32;      // in one tile, or half of them
constexpr int kParts = 64;        // of a batch, whose sums are added in order: a result does not depend on threads
constexpr int kLinesAtOnce = 2;   // of outputs, while their inputs are in the nearest cache
constexpr int kLargestSide = 16;  // of a kernel

// Lanes of a vector register, and windows in a tile of kFilters: as many as leave the sums in registers.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kMostRows = 12;
#elif defined(__AVX__)
constexpr int kLanes = 8, kMostRows = 3;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kMostRows = 3;
#else
constexpr int kLanes = 4, kMostRows = 1;
#endif
constexpr int kVectors = kFilters / kLanes;

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

inline Vector Load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void Store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }

// Keeps a value in a register: compilers would read it again for every product, and loads are what limits these loops.
inline void Hold(Vector& value) {
#if defined(__AVX512F__)
  asm("" : "+v"(value));
#elif defined(__x86_64__)
  asm("" : "+x"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
}

// sums[r] += x[r * row + i * step] * weights[i * stride] over i < count.
template <int R, int V>
inline void Multiply(const float* x, ptrdiff_t row, ptrdiff_t step, const float* weights, ptrdiff_t stride, int count,
                     Vector (&sums)[R][V]) {
  for (int i = 0; i < count; ++i, x += step, weights += stride) {
    if constexpr (R < V) {
      Vector values[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) values[r] = x[r * row] - Vector{};
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        Vector weight = Load(weights + v * kLanes);
        Hold(weight);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) sums[r][v] += values[r] * weight;
      }
    } else {
      Vector held[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) held[v] = Load(weights + v * kLanes), Hold(held[v]);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vector value = x[r * row] - Vector{};
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) sums[r][v] += value * held[v];
      }
    }
  }
}

// R neighbouring outputs, V vectors of each: what one row of the kernel adds. `stride` is from one output to the next,
// and from one input's weights to the next's.
template <int R, int V>
void Outputs(const float* x, ptrdiff_t row, const float* weights, int count, ptrdiff_t stride, const float* bias,
             bool first, bool rectify, float* out) {
  Vector sums[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      const int at = v * kLanes;
      sums[r][v] = !first ? Load(out + r * stride + at) : bias != nullptr ? Load(bias + at) : Vector{};
    }
  }
  Multiply(x, row, 1, weights, stride, count, sums);
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      const Vector sum = sums[r][v];
      Store(out + r * stride + v * kLanes, rectify ? (sum < 0.0f ? Vector{} : sum) : sum);  // NaN stays NaN
    }
  }
}

// Gradients of R neighbouring weights, V vectors of each, from `lines` rows of `width` outputs.
template <int R, int V>
void Weights(const float* x, ptrdiff_t step, ptrdiff_t x_line, const float* gradient, ptrdiff_t stride,
             ptrdiff_t gradient_line, int width, int lines, float* out) {
  Vector sums[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) sums[r][v] = Load(out + r * stride + v * kLanes);
  }
  for (int line = 0; line < lines; ++line) {
    Multiply(x + line * x_line, 1, step, gradient + line * gradient_line, stride, width, sums);
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) Store(out + r * stride + v * kLanes, sums[r][v]);
  }
}

// Calls tile(size as a constant).
template <int R, typename F>
inline void OfSize(int size, F&& tile) {
  if (size == R) return tile(std::integral_constant<int, R>());
  if constexpr (R > 1) OfSize<R - 1>(size, tile);
}

// Calls tile(start, size as a constant) for n things in tiles of nearly one size, kRows at most.
template <int kRows, typename F>
inline void Tiled(int n, F&& tile) {
  const int tiles = (n + kRows - 1) / kRows;
  for (int i = 0, start = 0; i < tiles; ++i) {
    const int size = (n - start + tiles - i - 1) / (tiles - i);
    OfSize<kRows>(size, [&](auto constant) { tile(start, constant); });
    start += size;
  }
}

// Calls tile(first filter, start, size and vectors as constants) for tiles of all filters of n things.
template <typename F>
inline void OfFilters(int filters, int n, F&& tile) {
  int f = 0;
  for (; f + kFilters <= filters; f += kFilters) {
    Tiled<kMostRows>(n, [&](int start, auto size) { tile(f, start, size, std::integral_constant<int, kVectors>()); });
  }
  if (f == filters) return;
  using Half = std::integral_constant<int, kVectors / 2>;
  Tiled<2 * kMostRows>(n, [&](int start, auto size) { tile(f, start, size, Half()); });
}

struct Shape {
  int batch, height, width, channels, side, stride, filters, out_height, out_width;
  ptrdiff_t Line() const { return ptrdiff_t{width} * channels; }
  ptrdiff_t OutLine() const { return ptrdiff_t{out_width} * filters; }
  int Row() const { return side * channels; }  // inputs under one row of a window
  ptrdiff_t KernelSize() const { return ptrdiff_t{side} * Row() * filters; }
};

// One row of `width` outputs of `filters` numbers from `taps` rows of inputs, `count` of them under each window.
void OutputLine(const float* const* inputs, const float* const* weights, int taps, ptrdiff_t step, int count, int width,
                int filters, const float* bias, bool rectify, float* out) {
  for (int tap = 0; tap < taps; ++tap) {
    OfFilters(filters, width, [&](int f, int start, auto size, auto vectors) {
      Outputs<size(), vectors()>(inputs[tap] + start * step, step, weights[tap] + f, count, filters,
                                 bias != nullptr ? bias + f : nullptr, tap == 0, rectify && tap == taps - 1,
                                 out + ptrdiff_t{start} * filters + f);
    });
  }
}

// Bytes as float32 in `scratch`; float32 as it is.
const float* AsFloat(const float* x, ptrdiff_t, std::vector<float>&) { return x; }
const float* AsFloat(const uint8_t* x, ptrdiff_t count, std::vector<float>& scratch) {
  scratch.resize(count);
  std::copy(x, x + count, scratch.begin());
  return scratch.data();
}

template <typename T>
void Forward(const Shape& s, const T* x, const float* kernel, const float* bias, int image, int from, int to, float* y) {
  thread_local std::vector<float> scratch;
  const int lines = (to - from - 1) * s.stride + s.side;
  const float* in = AsFloat(x + (ptrdiff_t{image} * s.height + from * s.stride) * s.Line(), lines * s.Line(), scratch);
  const float *inputs[kLargestSide], *weights[kLargestSide];
  for (int tap = 0; tap < s.side; ++tap) weights[tap] = kernel + ptrdiff_t{tap} * s.Row() * s.filters;
  for (int line = from; line < to; ++line) {
    for (int tap = 0; tap < s.side; ++tap) inputs[tap] = in + ((line - from) * s.stride + tap) * s.Line();
    OutputLine(inputs, weights, s.side, s.stride * s.channels, s.Row(), s.out_width, s.filters, bias, true,
               y + (ptrdiff_t{image} * s.out_height + line) * s.OutLine());
  }
}

// The gradient before the ReLU, each row between `pad` outputs of zeros; its sum is added to `bias`.
void Mask(const Shape& s, const float* y, const float* gradient, int pad, float* masked, float* bias) {
  const ptrdiff_t edge = ptrdiff_t{pad} * s.filters;
  for (int line = 0; line < s.out_height; ++line, y += s.OutLine(), gradient += s.OutLine()) {
    masked = std::fill_n(masked, edge, 0.0f);
    for (int f = 0; f < s.filters; f += kLanes) {
      Vector sum{};
      for (ptrdiff_t at = f; at < s.OutLine(); at += s.filters) {
        const Vector value = Load(y + at) > 0.0f ? Load(gradient + at) : Vector{};
        Store(masked + at, value);
        sum += value;
      }
      Store(bias + f, Load(bias + f) + sum);
    }
    masked = std::fill_n(masked + s.OutLine(), edge, 0.0f);
  }
}

// Of one image: added to the gradients of kernel and bias, and written to that of x if it is wanted.
template <typename T>
void Backward(const Shape& s, const T* x, const float* flipped, const float* y, const float* gradient, int image,
              float* kernel, float* bias, float* of_x) {
  thread_local std::vector<float> masked, scratch;
  const int pad = of_x != nullptr ? s.side - 1 : 0;
  const ptrdiff_t line = s.OutLine() + 2 * ptrdiff_t{pad} * s.filters, outputs = s.out_height * s.OutLine();
  masked.resize(s.out_height * line);
  Mask(s, y + image * outputs, gradient + image * outputs, pad, masked.data(), bias);
  for (int from = 0; from < s.out_height; from += kLinesAtOnce) {
    const int lines = std::min(kLinesAtOnce, s.out_height - from);
    const float* in = AsFloat(x + (ptrdiff_t{image} * s.height + from * s.stride) * s.Line(),
                              ((lines - 1) * s.stride + s.side) * s.Line(), scratch);
    const float* here = masked.data() + from * line + ptrdiff_t{pad} * s.filters;
    for (int tap = 0; tap < s.side; ++tap) {
      OfFilters(s.filters, s.Row(), [&](int f, int start, auto size, auto vectors) {
        Weights<size(), vectors()>(in + tap * s.Line() + start, s.stride * s.channels, s.stride * s.Line(), here + f,
                                   s.filters, line, s.out_width, lines,
                                   kernel + (ptrdiff_t{tap} * s.Row() + start) * s.filters + f);
      });
    }
  }
  if (of_x == nullptr) return;
  const float *inputs[kLargestSide], *weights[kLargestSide];
  const int count = s.side * s.filters;
  for (int row = 0; row < s.height; ++row) {  // a convolution of the padded gradient with the flipped kernel
    int taps = 0;
    for (int tap = std::max(0, row - s.out_height + 1); tap <= std::min(row, s.side - 1); ++tap, ++taps) {
      inputs[taps] = masked.data() + (row - tap) * line;
      weights[taps] = flipped + ptrdiff_t{tap} * count * s.channels;
    }
    OutputLine(inputs, weights, taps, s.filters, count, s.width, s.channels, nullptr, false,
               of_x + (ptrdiff_t{image} * s.height + row) * s.Line());
  }
}

// kernel[K, K, C, F] as [K, K, F, C], its columns in reverse.
std::vector<float> Flipped(const Shape& s, const float* kernel) {
  std::vector<float> flipped(s.KernelSize());
  for (int tap = 0; tap < s.side * s.side; ++tap) {
    const int from = tap - tap % s.side + (s.side - 1 - tap % s.side);
    for (int c = 0; c < s.channels; ++c) {
      for (int f = 0; f < s.filters; ++f) {
        flipped[(ptrdiff_t{tap} * s.filters + f) * s.channels + c] =
            kernel[(ptrdiff_t{from} * s.channels + c) * s.filters + f];
      }
    }
  }
  return flipped;
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

ffi::Error ForwardCall(ffi::ThreadPool pool, int64_t stride, ffi::AnyBuffer x, Floats kernel, Floats bias, Result y) {
  const Shape s = ShapeOf(x, kernel, stride);
  const int lines = std::clamp(s.out_height * s.batch / kParts, 1, s.out_height);  // few images: parts of them
  const int tasks = (s.out_height + lines - 1) / lines;
  return OfType(x, [&](const auto* images) {
    InParallel(pool, s.batch * tasks, [&](int i) {
      const int from = i % tasks * lines;
      Forward(s, images, kernel.typed_data(), bias.typed_data(), i / tasks, from, std::min(from + lines, s.out_height),
              y->typed_data());
    });
  });
}

ffi::Error Gradients(ffi::ThreadPool& pool, int64_t stride, ffi::AnyBuffer& x, Floats& kernel, Floats& y,
                     Floats& gradient, Result& of_kernel, Result& of_bias, float* of_x) {
  const Shape s = ShapeOf(x, kernel, stride);
  const ptrdiff_t size = s.KernelSize() + s.filters;
  const int parts = std::min(kParts, s.batch);
  std::vector<float> sums(parts * size), flipped;
  if (of_x != nullptr) flipped = Flipped(s, kernel.typed_data());
  ffi::Error error = OfType(x, [&](const auto* images) {
    InParallel(pool, parts, [&](int part) {
      float* own = sums.data() + part * size;
      for (int image = int64_t{part} * s.batch / parts; image < int64_t{part + 1} * s.batch / parts; ++image) {
        Backward(s, images, flipped.data(), y.typed_data(), gradient.typed_data(), image, own, own + s.KernelSize(),
                 of_x);
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
