// Matrix products, computed in registers, one tile of some rows by a few vectors of columns at a
// time.
//
// Every element of a result is a sum over k = 0, 1, ... in this order for all sizes of tiles.
// Therefore the results are bitwise equal for every division of the work.
#pragma once

#include "vectors.h"

namespace seqjax {
namespace SEQJAX_VARIANT {

SEQJAX_INLINE long least(long a, long b) { return a < b ? a : b; }
SEQJAX_INLINE long most(long a, long b) { return a > b ? a : b; }
SEQJAX_INLINE long blocks_of(long n, long size) { return (n + size - 1) / size; }
// The index at which part i begins if n items are divided into `parts`.
SEQJAX_INLINE long part(long n, long i, long parts) { return n * i / parts; }

// The number of rows of a tile, given its width in vectors: as many rows as the registers hold.
#if defined(__AVX512F__)
constexpr int rows_of_tile(int vectors) { return vectors == 4 ? 6 : vectors == 3 ? 8 : 14; }
#else
constexpr int rows_of_tile(int vectors) { return vectors == 4 ? 3 : vectors == 3 ? 4 : 6; }
#endif

// c[r] = init[r] + sum over segments s and k of a[r, s, k] b[s * length + k]
struct Product {
  const float* a;
  long a_row, a_segment;  // distances between rows, and between segments of a row
  const float* b;
  long b_row;
  long segments, length;
  const float* init;
  long init_row;
  float* c;
  long c_row;
};

// Computes M rows from row r on. If kStep is not 0, `a` is [length][kStep], and row i of the tile
// is column i of `a`.
template <int M, int N, int kStep>
static void tile(const Product& x, long r) {
  Vec sum[M][N];
  const float* init = x.init + r * x.init_row;
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) sum[i][v] = load(init + i * x.init_row + v * kLanes);
  }
  const float* b = x.b;
  const long row = x.a_row, b_row = x.b_row;
  for (long s = 0; s < x.segments; ++s) {
    const float* a = x.a + s * x.a_segment + (kStep ? 0 : r * row);
    for (long k = 0; k < x.length; ++k, b += b_row) {
      Vec of_b[N];
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) of_b[v] = load(b + v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) {
        const Vec of_a = broadcast(kStep ? a[k * kStep + i] : a[i * row + k]);
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) sum[i][v] += of_a * of_b[v];
      }
    }
  }
  float* c = x.c + r * x.c_row;
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) store(c + i * x.c_row + v * kLanes, sum[i][v]);
  }
}

template <int N, int M, int kStep = 0>
static void tile_of(int rows, const Product& x, long r) {
  if (rows == M) return tile<M, N, kStep>(x, r);
  if constexpr (M > 1) return tile_of<N, M - 1, kStep>(rows, x, r);
}

// Computes rows [r0, r1) in tiles of about equal size. `after(r, rows)` is called after each tile,
// while its results are in the cache.
template <int N, class After>
SEQJAX_INLINE void multiply(const Product& x, long r0, long r1, After after) {
  constexpr int kMost = rows_of_tile(N);
  const long n = r1 - r0, tiles = blocks_of(n, kMost);
  for (long i = 0; i < tiles; ++i) {
    const long r = r0 + part(n, i, tiles);
    const int rows = static_cast<int>(r0 + part(n, i + 1, tiles) - r);
    tile_of<N, kMost>(rows, x, r);
    after(r, rows);
  }
}

// Computes rows [r0, r1) in tiles, each at the beginning of `x.c`, and calls `use(r, rows)` after
// each tile.
template <int N, class Use>
SEQJAX_INLINE void each_tile(Product x, long r0, long r1, Use use) {
  constexpr int kMost = rows_of_tile(N);
  const float* a = x.a;
  const long n = r1 - r0, count = blocks_of(n, kMost);
  for (long i = 0; i < count; ++i) {
    const long r = r0 + part(n, i, count);
    const int rows = static_cast<int>(r0 + part(n, i + 1, count) - r);
    x.a = a + r * x.a_row;
    tile_of<N, kMost>(rows, x, 0);
    use(r, rows);
  }
}

}  // namespace SEQJAX_VARIANT
}  // namespace seqjax
