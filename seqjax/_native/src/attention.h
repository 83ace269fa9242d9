// The additive attention of a decoder: the part of a step before the cell, and its gradient.
//
//   q = y W_q,  e_s = v . tanh(k_s + q),  a = softmax(e),  c = sum over s of a_s m_s
//
// y is the output of the step before, k are the keys, m the values, c is the context.
#pragma once

#include "layout.h"

namespace seqjax {
namespace SEQJAX_VARIANT {

// The layout of the query matrix, which has no gates.
using Plain = ElmanCell<false>;

SEQJAX_INLINE float sum_of(Vec v) {
  float sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += v[l];
  return sum;
}

// The sum of a[j] b[j] for j < n.
SEQJAX_INLINE float dot(const float* a, const float* b, long n) {
  Vec sum{};
  for (long j = 0; j < n; j += kLanes) sum += load(a + j, n - j) * load(b + j, n - j);
  return sum_of(sum);
}

// Adds scale * from[j] to to[j] for j < n.
SEQJAX_INLINE void add_scaled(float* to, float scale, const float* from, long n) {
  for (long j = 0; j < n; j += kLanes) {
    store(to + j, load(to + j, n - j) + scale * load(from + j, n - j), n - j);
  }
}

SEQJAX_INLINE void fill(float* to, long n) { __builtin_memset(to, 0, n * sizeof(float)); }

// The number of floats in a row of queries: whole panels.
static long query_width(const Problem& x) { return panels_of<Plain>(x.U) * kPanel; }

template <class C>
struct ForwardAttention {
  const Forward& f;
  long width;
  float *w_c, *w_q, *queries;  // packed, packed, [B][width]

  ForwardAttention(const Forward& f, Scratch& scratch) : f(f), width(query_width(f)) {
    if (!f.keys) return;
    w_c = scratch.take(panels_of<C>(f.H) * f.M * C::kVectors * kLanes);
    w_q = scratch.take(f.H * width);
    queries = scratch.take(f.B * width);
  }

  void pack_weights(int id, int members) const {
    const long P = panels_of<C>(f.H), P_q = panels_of<Plain>(f.U);
    pack<C>(f.w_c, false, f.M, f.H, part(P, id, members), part(P, id + 1, members), w_c);
    pack<Plain>(f.w_q, false, f.H, f.U, part(P_q, id, members), part(P_q, id + 1, members), w_q);
  }

  // Attends with the rows of a share of the last output, y [B, H], at step t.
  void attend(const Share& share, long t, const float* y) const {
    static const float zeros[kPanel] = {};
    for (long p = 0; p * kPanel < width; ++p) {
      const Product x{y,   f.H,   0, w_q + p * f.H * kPanel, kPanel, 1,
                      f.H, zeros, 0, queries + p * kPanel,   width};
      multiply<kSlots>(x, share.r0, share.r1, [](long, int) {});
    }
    for (long r = share.r0; r < share.r1; ++r) attend_row(t, r);
  }

  void attend_row(long t, long r) const {
    const uint8_t* real = f.positions + r * f.S;
    const float* q = queries + r * width;
    float *a = f.weights + (t * f.B + r) * f.S, *c = f.contexts + (t * f.B + r) * f.M;
    constexpr float kNone = -__builtin_inff();
    float highest = kNone;  // or NaN if a score is NaN, so that all weights are NaN
    for (long s = 0; s < f.S; ++s) {
      a[s] = real[s] ? score(f.keys + (r * f.S + s) * f.U, q) : kNone;
      if (a[s] > highest || a[s] != a[s]) highest = a[s];
    }
    if (highest == kNone) highest = 0;  // no position is real
    float total = 0;
    for (long s = 0; s < f.S; ++s) total += a[s] = __builtin_expf(a[s] - highest);
    const float divisor = total > 0 ? total : 1;
    for (long s = 0; s < f.S; ++s) a[s] /= divisor;
    fill(c, f.M);
    for (long s = 0; s < f.S; ++s) {
      if (real[s]) add_scaled(c, a[s], f.values + (r * f.S + s) * f.M, f.M);
    }
    for (long j = 0; f.queries && j < f.U; j += kLanes) {
      store(f.queries + (t * f.B + r) * f.U + j, load(q + j), f.U - j);
    }
  }

  float score(const float* key, const float* q) const {
    Vec sum{};
    for (long j = 0; j < f.U; j += kLanes) {
      sum += load(f.v + j, f.U - j) * tanh(load(key + j, f.U - j) + load(q + j, f.U - j));
    }
    return sum_of(sum);
  }

  // Adds the product of the contexts of step t to the sums of a panel of the cell.
  void add_context(const Share& share, long p, long t, float* sums) const {
    const Product x{f.contexts + t * f.B * f.M,
                    f.M,
                    0,
                    w_c + p * f.M * C::kVectors * kLanes,
                    C::kVectors * kLanes,
                    1,
                    f.M,
                    sums,
                    kPanel,
                    sums,
                    kPanel};
    multiply<C::kVectors>(x, share.r0, share.r1, [](long, int) {});
  }
};

template <class C>
struct BackwardAttention {
  const Backward& f;
  long width, P, Q_c, Q_h;  // panels of the cell; blocks of the context and of the query
  float *w_c, *w_q;         // packed and transposed
  float *dcontexts, *dq;    // [T][B][M], [B][width]
  float *de, *dv;           // [B][S], [B][width]: the gradient of v, row by row
  float* dy0;               // [B][H], the result if it is wanted

  BackwardAttention(const Backward& f, Scratch& scratch)
      : f(f), width(query_width(f)), P(panels_of<C>(f.H)) {
    if (!f.keys) return;
    Q_c = blocks_of(f.M, kBlockLanes);
    Q_h = blocks_of(f.H, kBlockLanes);
    w_c = scratch.take(Q_c * P * C::kVectors * kLanes * kBlockLanes);
    w_q = scratch.take(Q_h * width * kBlockLanes);
    dcontexts = scratch.take(f.T * f.B * f.M);
    dq = scratch.take(f.B * width);
    de = scratch.take(f.B * f.S);
    dv = scratch.take(f.B * width);
    dy0 = f.dy0 ? f.dy0 : scratch.take(f.B * f.H);
  }

  void pack_weights(int id, int members) const {
    const auto my = [&](long n) { return part(n, id, members); };
    const auto next = [&](long n) { return part(n, id + 1, members); };
    pack_transposed<C>(f.w_c, false, f.M, f.H, my(Q_c), next(Q_c), w_c);
    pack_transposed<Plain>(f.w_q, false, f.H, f.U, my(Q_h), next(Q_h), w_q);
  }

  void begin(const Share& share) const {
    const long r0 = share.r0, rows = share.r1 - r0;
    fill(dv + r0 * width, rows * width);
    fill(dy0 + r0 * f.H, rows * f.H);
    if (f.dkeys) fill(f.dkeys + r0 * f.S * f.U, rows * f.S * f.U);
  }

  // The gradient of the attention of step t. `dz` are the cotangents of the sums of step t, with
  // `panel` floats between panels. `dy`, with `row` floats in a row, is the cotangent of the output
  // of the step before, to which the part that passes through the query is added.
  void retreat(const Share& share, long t, const float* dz, long panel, float* dy, long row) const {
    static const float zeros[kBlockLanes] = {};
    for (long q = 0; q < Q_c; ++q) {
      const Product x{dz,
                      kPanel,
                      panel,
                      w_c + q * P * C::kVectors * kLanes * kBlockLanes,
                      kBlockLanes,
                      P,
                      C::kVectors * kLanes,
                      zeros,
                      0,
                      nullptr,
                      kBlockLanes};
      const long j = q * kBlockLanes;
      multiply_transposed(x, share, [&](long r, int v, Vec product) {
        const long at = (t * f.B + r) * f.M + j + v * kLanes, n = f.M - j - v * kLanes;
        if (n > 0) store(dcontexts + at, product + load(f.dcontexts + at, n), n);
      });
    }
    for (long r = share.r0; r < share.r1; ++r) retreat_row(t, r);
    for (long q = 0; q < Q_h; ++q) {
      const Product x{dq,          width,          kPanel,     w_q + q * width * kBlockLanes,
                      kBlockLanes, width / kPanel, kPanel,     zeros,
                      0,           nullptr,        kBlockLanes};
      const long j = q * kBlockLanes;
      multiply_transposed(x, share, [&](long r, int v, Vec product) {
        float* to = dy + r * row + j + v * kLanes;
        const long n = f.H - j - v * kLanes;
        if (n > 0) store(to, load(to, n) + product, n);
      });
    }
  }

  void retreat_row(long t, long r) const {
    const uint8_t* real = f.positions + r * f.S;
    const float* a = f.weights + (t * f.B + r) * f.S;
    const float* d_context = dcontexts + (t * f.B + r) * f.M;
    float *d_e = de + r * f.S, mean = 0;
    for (long s = 0; s < f.S; ++s) {
      d_e[s] =
          dot(d_context, f.values + (r * f.S + s) * f.M, f.M) + f.dweights[(t * f.B + r) * f.S + s];
      if (real[s]) mean += a[s] * d_e[s];
    }
    const float* q = f.queries + (t * f.B + r) * f.U;
    float *d_q = dq + r * width, *d_v = dv + r * width;
    fill(d_q, width);
    for (long s = 0; s < f.S; ++s) {
      if (!real[s]) continue;
      const long at = (r * f.S + s) * f.U;
      const Vec d_score = broadcast(a[s] * (d_e[s] - mean));
      for (long j = 0; j < f.U; j += kLanes) {
        const long n = f.U - j;
        const Vec h = tanh(load(f.keys + at + j, n) + load(q + j, n));
        const Vec d = d_score * load(f.v + j, n) * (1.0f - h * h);
        store(d_q + j, load(d_q + j) + first(d, n));
        store(d_v + j, load(d_v + j) + d_score * h);
        if (f.dkeys) store(f.dkeys + at + j, load(f.dkeys + at + j, n) + d, n);
      }
    }
    for (long j = 0; f.dqueries && j < f.U; j += kLanes) {
      store(f.dqueries + (t * f.B + r) * f.U + j, load(d_q + j), f.U - j);
    }
  }

  // After the loop: the gradient of the values of some rows, a sum over all steps.
  void values(const Share& share) const {
    for (long r = share.r0; r < share.r1; ++r) {
      float* d_values = f.dvalues + r * f.S * f.M;
      fill(d_values, f.S * f.M);
      for (long t = 0; t < f.T; ++t) {
        const long at = t * f.B + r;
        for (long s = 0; s < f.S; ++s) {
          const float a = f.weights[at * f.S + s];
          add_scaled(d_values + s * f.M, a, dcontexts + at * f.M, f.M);
        }
      }
    }
  }

  // After the loop: the sum of the rows' gradients of v.
  void finish() const {
    for (long j = 0; f.dv && j < f.U; j += kLanes) {
      Vec sum{};
      for (long r = 0; r < f.B; ++r) sum += load(dv + r * width + j);
      store(f.dv + j, sum, f.U - j);
    }
  }

  // Computes a product for the rows of a share. Calls `use(r, v, values)` for each of the kBlock
  // vectors of each row.
  template <class Use>
  SEQJAX_INLINE void multiply_transposed(Product x, const Share& share, Use use) {
    float product[rows_of_tile(kBlock) * kBlockLanes];
    x.c = product;
    each_tile<kBlock>(x, share.r0, share.r1, [&](long r, int rows) {
      for (int i = 0; i < rows; ++i) {
        for (int v = 0; v < kBlock; ++v) {
          use(r + i, v, load(product + i * kBlockLanes + v * kLanes));
        }
      }
    });
  }
};

}  // namespace SEQJAX_VARIANT
}  // namespace seqjax
