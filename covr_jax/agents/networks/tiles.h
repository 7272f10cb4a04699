// Products of matrices in registers: kMostRows rows by kFilters columns at a time; the last 16 columns of an odd
// multiple of 16 with twice the rows. Nothing is packed or copied.

#ifndef COVR_JAX_TILES_H_
#define COVR_JAX_TILES_H_

#include <cstddef>
#include <new>
#include <type_traits>
#include <vector>

namespace {

constexpr int kFilters = 32;  // in one tile, or half of them

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

// Numbers from the start of a cache line: a vector that lies in two takes twice as long to load and to store.
template <typename T>
struct LineAllocator {
  using value_type = T;
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* at, size_t) { ::operator delete(at, std::align_val_t{64}); }
  bool operator==(const LineAllocator&) const { return true; }
  bool operator!=(const LineAllocator&) const { return false; }
};
using Aligned = std::vector<float, LineAllocator<float>>;

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
template <int R, int V, typename Row, typename Count>
inline void Multiply(const float* x, Row row, ptrdiff_t step, const float* weights, ptrdiff_t stride, Count count,
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

// Of a convolution: images [height, width, channels], windows of `side`, outputs [out_height, out_width, filters].
struct Shape {
  int batch, height, width, channels, side, stride, filters, out_height, out_width;
  ptrdiff_t Line() const { return ptrdiff_t{width} * channels; }
  ptrdiff_t OutLine() const { return ptrdiff_t{out_width} * filters; }
  int Row() const { return side * channels; }  // inputs under one row of a window
  ptrdiff_t Inputs() const { return height * Line(); }
  ptrdiff_t Outputs() const { return out_height * OutLine(); }
  ptrdiff_t KernelSize() const { return ptrdiff_t{side} * Row() * filters; }
};

}  // namespace

#endif  // COVR_JAX_TILES_H_
