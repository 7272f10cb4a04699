// Convolution with a 3x3 kernel at stride 1 by Winograd's minimal filtering, F(2x2, 3x3) of Lavin and Gray (2016): four
// outputs take 16 products per channel and filter instead of 36. All factors are 1 or 1/2, so that rounding is as small
// as that of the plain sums.
//
//   outputs = A'[(G k G') * (B' x B)]A      k 3x3, x 4x4 inputs, outputs 2x2
//
// and the gradients are its transpose: Z = A dy A' serves both, k's is G'[sum of (B' x B) * Z]G, x's B[(G k G') * Z]B'.
// Letters: N tiles of 2x2 outputs, C channels, F filters; a transformed tile is 16 rows of channels, [16, N, C].

#ifndef COVR_JAX_WINOGRAD_H_
#define COVR_JAX_WINOGRAD_H_

#include <algorithm>
#include <vector>

#include "tiles.h"

namespace winograd {

constexpr int kPoints = 16;       // of a transformed tile
constexpr int kTilesAtOnce = 48;  // whose transforms stay in the second cache

// One dimension of each transform.
struct Points {
  Vector v[4];
};
inline Points Inputs(Vector a, Vector b, Vector c, Vector d) { return {a - c, b + c, c - b, b - d}; }          // B'
inline Points InputsBack(Vector a, Vector b, Vector c, Vector d) { return {a, b - c + d, b + c - a, -d}; }     // B
inline Points Kernel(Vector a, Vector b, Vector c) { return {a, (a + c + b) * 0.5f, (a + c - b) * 0.5f, c}; }  // G
inline Points OutputsBack(Vector a, Vector b) { return {a, a + b, a - b, -b}; }                                // A

// The outputs of an image as a grid of 2x2 tiles; those of the last row and column may reach over the edge.
inline int TileRows(const Shape& s) { return (s.out_height + 1) / 2; }
inline int TileColumns(const Shape& s) { return (s.out_width + 1) / 2; }

// By value here and in what calls it: as far as a compiler knows, stores could change a shape that is referred to.
// Calls tile(top, left) with the first output of tiles `from` to `to`, which are counted along rows.
template <typename F>
inline void EachTile(Shape s, int from, int to, F&& tile) {
  int top = from / TileColumns(s) * 2, left = from % TileColumns(s) * 2;
  for (; from < to; ++from) {
    tile(top, left);
    if ((left += 2) >= s.out_width) top += 2, left = 0;
  }
}

inline bool Fits(const Shape& s) { return s.side == 3 && s.stride == 1 && s.channels % 16 == 0; }

// G k G' of kernel[3, 3, C, F] as [16, C, F].
inline Aligned Transformed(const float* kernel, int channels, int filters) {
  const ptrdiff_t size = ptrdiff_t{channels} * filters;
  Aligned transformed(kPoints * size);
  for (ptrdiff_t at = 0; at < size; at += kLanes) {
    Points columns[3];
    for (int j = 0; j < 3; ++j) {
      const float* from = kernel + j * size + at;
      columns[j] = Kernel(Load(from), Load(from + 3 * size), Load(from + 6 * size));
    }
    for (int i = 0; i < 4; ++i) {
      const Points row = Kernel(columns[0].v[i], columns[1].v[i], columns[2].v[i]);
      for (int j = 0; j < 4; ++j) Store(transformed.data() + (i * 4 + j) * size + at, row.v[j]);
    }
  }
  return transformed;
}

// [16, C, F] as [16, F, C].
inline Aligned Transposed(const Aligned& kernel, int channels, int filters) {
  Aligned transposed(kernel.size());
  for (int point = 0; point < kPoints; ++point) {
    const ptrdiff_t from = ptrdiff_t{point} * channels * filters;
    for (int c = 0; c < channels; ++c) {
      for (int f = 0; f < filters; ++f) transposed[from + f * channels + c] = kernel[from + c * filters + f];
    }
  }
  return transposed;
}

// G'[sums]G: added to the gradient of kernel[3, 3, C, F] from its transform [16, C, F].
inline void AddKernel(const float* sums, int channels, int filters, float* kernel) {
  const ptrdiff_t size = ptrdiff_t{channels} * filters;
  const auto back = [](Vector a, Vector b, Vector c, Vector d, Vector* to) {
    const Vector even = (b + c) * 0.5f;
    to[0] = a + even, to[1] = (b - c) * 0.5f, to[2] = even + d;
  };
  for (ptrdiff_t at = 0; at < size; at += kLanes) {
    Vector columns[4][3], row[3];
    const auto sum = [&](int i, int j) { return Load(sums + (i * 4 + j) * size + at); };
    for (int j = 0; j < 4; ++j) back(sum(0, j), sum(1, j), sum(2, j), sum(3, j), columns[j]);
    for (int i = 0; i < 3; ++i) {
      back(columns[0][i], columns[1][i], columns[2][i], columns[3][i], row);
      for (int j = 0; j < 3; ++j) {
        float* to = kernel + (i * 3 + j) * size + at;
        Store(to, Load(to) + row[j]);
      }
    }
  }
}

// B' x B of tiles `from` to `to` of an image as [16, N, C]. Inputs beyond the edge serve no output: any will do.
inline void TransformInputs(Shape s, const float* x, int from, int to, float* transformed) {
  const ptrdiff_t point = ptrdiff_t{to - from} * s.channels;
  EachTile(s, from, to, [&](int top, int left) {
    const float* lines[4];
    ptrdiff_t columns[4];
    for (int i = 0; i < 4; ++i) {
      lines[i] = x + std::min(top + i, s.height - 1) * s.Line();
      columns[i] = ptrdiff_t{std::min(left + i, s.width - 1)} * s.channels;
    }
    for (int c = 0; c < s.channels; c += kLanes) {
      Points across[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const ptrdiff_t at = columns[j] + c;
        across[j] = Inputs(Load(lines[0] + at), Load(lines[1] + at), Load(lines[2] + at), Load(lines[3] + at));
      }
      float* to_point = transformed + c;
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Points row = Inputs(across[0].v[i], across[1].v[i], across[2].v[i], across[3].v[i]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j, to_point += point) Store(to_point, row.v[j]);
      }
    }
    transformed += s.channels;
  });
}

// relu(A' m A + bias) of tiles `from` to `to`, m [16, N, F].
inline void WriteOutputs(Shape s, const float* products, int from, int to, const float* bias, float* y) {
  const ptrdiff_t point = ptrdiff_t{to - from} * s.filters;
  EachTile(s, from, to, [&](int top, int left) {
    float* at = y + (ptrdiff_t{top} * s.out_width + left) * s.filters;
    const bool below = top + 1 < s.out_height, right = left + 1 < s.out_width;
    for (int f = 0; f < s.filters; f += kLanes) {
      const auto rectified = [shift = Load(bias + f)](Vector sum) {
        sum += shift;
        return sum < 0.0f ? Vector{} : sum;  // NaN stays NaN
      };
      Vector rows[2][4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const float* m = products + j * point + f;
        const Vector b = Load(m + 4 * point), c = Load(m + 8 * point);
        rows[0][j] = Load(m) + b + c, rows[1][j] = b - c - Load(m + 12 * point);
      }
#pragma GCC unroll 2
      for (int i = 0; i < 1 + below; ++i) {
        float* out = at + i * ptrdiff_t{s.out_width} * s.filters + f;
        Store(out, rectified(rows[i][0] + rows[i][1] + rows[i][2]));
        if (right) Store(out + s.filters, rectified(rows[i][1] - rows[i][2] - rows[i][3]));
      }
    }
    products += s.filters;
  });
}

// A dy A' of tiles `from` to `to` as [16, N, F], where dy is `gradient` before the ReLU; its sum is added to `bias`.
inline void TransformGradient(Shape s, const float* y, const float* gradient, int from, int to,
                              float* transformed, float* bias) {
  const ptrdiff_t point = ptrdiff_t{to - from} * s.filters;
  EachTile(s, from, to, [&](int top, int left) {
    const ptrdiff_t first = (ptrdiff_t{top} * s.out_width + left) * s.filters;
    for (int f = 0; f < s.filters; f += kLanes) {
      const auto masked = [&](int i, int j) {
        if (top + i >= s.out_height || left + j >= s.out_width) return Vector{};
        const ptrdiff_t at = first + (ptrdiff_t{i} * s.out_width + j) * s.filters + f;
        return Load(y + at) > 0.0f ? Load(gradient + at) : Vector{};
      };
      const Vector a = masked(0, 0), b = masked(0, 1), c = masked(1, 0), d = masked(1, 1);
      Store(bias + f, Load(bias + f) + (a + b) + (c + d));
      const Points left_column = OutputsBack(a, c), right_column = OutputsBack(b, d);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Points row = OutputsBack(left_column.v[i], right_column.v[i]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) Store(transformed + (i * 4 + j) * point + f, row.v[j]);
      }
    }
    transformed += s.filters;
  });
}

// B m B' of tiles `from` to `to`, m [16, N, C], added to the gradient of x.
inline void AddInputs(Shape s, const float* products, int from, int to, float* of_x) {
  const ptrdiff_t point = ptrdiff_t{to - from} * s.channels;
  EachTile(s, from, to, [&](int top, int left) {
    const int rows = std::min(4, s.height - top), columns = std::min(4, s.width - left);
    float* at = of_x + (ptrdiff_t{top} * s.width + left) * s.channels;
    for (int c = 0; c < s.channels; c += kLanes) {
      Points across[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const float* m = products + j * point + c;
        across[j] = InputsBack(Load(m), Load(m + 4 * point), Load(m + 8 * point), Load(m + 12 * point));
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Points row = InputsBack(across[0].v[i], across[1].v[i], across[2].v[i], across[3].v[i]);
        if (i >= rows) break;
        for (int j = 0; j < columns; ++j) {
          float* to_x = at + (ptrdiff_t{i} * s.width + j) * s.channels + c;
          Store(to_x, Load(to_x) + row.v[j]);
        }
      }
    }
    products += s.channels;
  });
}

// R rows of `count` numbers by [count, columns], V vectors of the columns.
template <int R, int V, typename Count>
void Product(const float* rows, const float* right, Count count, ptrdiff_t columns, float* product) {
  Vector sums[R][V] = {};
  Multiply(rows, count, 1, right, columns, count, sums);
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) Store(product + r * columns + v * kLanes, sums[r][v]);
  }
}

// For each point, n rows of `count` numbers by [count, columns]: [16, n, columns].
inline void Products(const float* left, const float* right, int n, int count, int columns, float* products) {
  for (int point = 0; point < kPoints; ++point) {
    OfFilters(columns, n, [&](int column, int start, auto size, auto vectors) {
      const float *rows = left + ptrdiff_t{start} * count, *own = right + column;
      float* product = products + ptrdiff_t{start} * columns + column;
      if constexpr (vectors() == kVectors) {
        if (count == kFilters) {  // a third less time where the compiler knows the width
          Product<size(), vectors()>(rows, own, std::integral_constant<int, kFilters>(), columns, product);
          return;
        }
      }
      Product<size(), vectors()>(rows, own, count, columns, product);
    });
    left += ptrdiff_t{n} * count, right += ptrdiff_t{count} * columns, products += ptrdiff_t{n} * columns;
  }
}

// For each point, left [n, rows] transposed by right [n, columns]: added to [16, rows, columns].
inline void AddProducts(const float* left, const float* right, int n, int rows, int columns, float* sums) {
  for (int point = 0; point < kPoints; ++point) {
    OfFilters(columns, rows, [&](int column, int row, auto size, auto vectors) {
      Weights<size(), vectors()>(left + row, rows, 0, right + column, columns, 0, n, 1,
                                 sums + ptrdiff_t{row} * columns + column);
    });
    left += ptrdiff_t{n} * rows, right += ptrdiff_t{n} * columns, sums += ptrdiff_t{rows} * columns;
  }
}

// Outputs of rows `from` to `to` of tiles; x and y are one image.
inline void Forward(const Shape& s, const float* x, const float* kernel, const float* bias, int from, int to,
                    float* y) {
  static thread_local Aligned transformed, products;
  transformed.resize(ptrdiff_t{kPoints} * kTilesAtOnce * s.channels);
  products.resize(ptrdiff_t{kPoints} * kTilesAtOnce * s.filters);
  for (int tile = from * TileColumns(s), end = to * TileColumns(s); tile < end; tile += kTilesAtOnce) {
    const int stop = std::min(tile + kTilesAtOnce, end);
    TransformInputs(s, x, tile, stop, transformed.data());
    Products(transformed.data(), kernel, stop - tile, s.channels, s.filters, products.data());
    WriteOutputs(s, products.data(), tile, stop, bias, y);
  }
}

// Of images `from` to `to`: added to the gradients of kernel and bias, and written to that of x if it is wanted, for
// which `transposed` is the transformed kernel as [16, F, C].
inline void Backward(const Shape& s, const float* x, const float* transposed, const float* y, const float* gradient,
                     int from, int to, float* kernel, float* bias, float* of_x) {
  static thread_local Aligned transformed, of_outputs, of_inputs, sums;
  transformed.resize(ptrdiff_t{kPoints} * kTilesAtOnce * s.channels);
  of_outputs.resize(ptrdiff_t{kPoints} * kTilesAtOnce * s.filters);
  of_inputs.resize(transformed.size());
  sums.assign(ptrdiff_t{kPoints} * s.channels * s.filters, 0.0f);
  if (of_x != nullptr) std::fill_n(of_x + from * s.Inputs(), (to - from) * s.Inputs(), 0.0f);
  for (int image = from; image < to; ++image) {
    for (int tile = 0, end = TileRows(s) * TileColumns(s); tile < end; tile += kTilesAtOnce) {
      const int stop = std::min(tile + kTilesAtOnce, end), n = stop - tile;
      const ptrdiff_t outputs = image * s.Outputs();
      TransformInputs(s, x + image * s.Inputs(), tile, stop, transformed.data());
      TransformGradient(s, y + outputs, gradient + outputs, tile, stop, of_outputs.data(), bias);
      AddProducts(transformed.data(), of_outputs.data(), n, s.channels, s.filters, sums.data());
      if (of_x == nullptr) continue;
      Products(of_outputs.data(), transposed, n, s.filters, s.channels, of_inputs.data());
      AddInputs(s, of_inputs.data(), tile, stop, of_x + image * s.Inputs());
    }
  }
  AddKernel(sums.data(), s.channels, s.filters, kernel);
}

}  // namespace winograd

#endif  // COVR_JAX_WINOGRAD_H_
