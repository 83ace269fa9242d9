// The backward loop, and the products behind it: gradients of inputs and weights of all steps.
#pragma once

#include "layout.h"
#include "team.h"

namespace seqjax {
namespace SEQJAX_VARIANT {

template <class C>
struct BackwardLoop {
  static constexpr long kDepth = C::kVectors * kLanes;
  static constexpr int kTile = rows_of_tile(C::kVectors), kMost = rows_of_tile(kBlock);

  const Backward& f;
  Order order;
  long P, R, Q, Q_in, width;                  // panels, rows, blocks of units and inputs; of dh
  long input_tiles, tiles, stretch;           // tiles of features; rows of a stretch
  float *w_hh, *w_ih;                         // packed and transposed
  float *c_start, *c_reset;
  float *dz, *dh, *dc;                        // [P][R][kPanel], [B][width], [P][B][lanes]
  float *dh_reset, *dc_reset;
  float *features, *sums;                     // [tiles][stretch][kTile], [P][tiles][kTile][kDepth]
  Memory memory;

  BackwardLoop(const Backward& f, Scratch& scratch)
      : f(f), order{f.T, f.reverse}, P(panels_of<C>(f.H)), R(f.T * f.B) {
    width = blocks_of(f.H, kPanel) * kPanel;
    Q = width / kBlockLanes;
    Q_in = blocks_of(f.I, kBlockLanes);
    // A feature that is always 1 makes the gradient of the bias.
    input_tiles = blocks_of(f.I + 1, kTile);
    tiles = input_tiles + blocks_of(f.H + (C::kRecurrent ? 1 : 0), kTile);
    stretch = (f.I + f.H) * P * kPanel > (1 << 19) ? 384 : 128;
    const long c = C::kMemory ? P * f.B * kLanes : 0;
    w_hh = scratch.take(Q * P * kDepth * kBlockLanes);
    w_ih = scratch.take(f.dxs ? Q_in * P * kDepth * kBlockLanes : 0);
    c_start = scratch.take(c);
    c_reset = scratch.take(f.resets ? c : 0);
    dz = scratch.take(P * R * kPanel);
    dh = scratch.take(f.B * width);
    dc = scratch.take(c);
    dh_reset = scratch.take(f.resets ? f.B * width : 0);
    dc_reset = scratch.take(f.resets ? c : 0);
    features = scratch.take(wants_weights() ? tiles * stretch * kTile : 0);
    sums = scratch.take(wants_weights() ? P * tiles * kTile * kDepth : 0);
    memory = Memory{const_cast<float*>(f.cs), f.T, c_start, c_reset};
  }

  bool wants_weights() const { return f.dw_ih || f.dw_hh || f.db || f.db_hn; }

  void work(Team& team, int id) const {
    const int members = team.size();
    const auto my = [&](long n) { return part(n, id, members); };
    const auto next = [&](long n) { return part(n, id + 1, members); };
    pack_transposed<C>(f.w_hh, true, f.H, f.H, my(Q), next(Q), w_hh);
    if (f.dxs) pack_transposed<C>(f.w_ih, false, f.I, f.H, my(Q_in), next(Q_in), w_ih);
    if (id == 0) begin();
    team.barrier();
    const Share share = share_of<C>(f, id, members);
    for (long s = f.T; s-- > 0;) {
      step(share, s);
      if (share.by_units) team.barrier();
      pass(share, s);
    }
    team.barrier();
    if (id == 0) finish();
    // Pieces are small where several members take them, and as large as the caches like for one.
    const long pieces = members == 1 ? 1 : 4 * members;
    const long rows = most(kMost, least(16 * kMost, R / pieces));
    for (long i = 0; f.dxs && (i = team.claim(Team::kInputs) * rows) < R;) {
      inputs(i, least(i + rows, R));
    }
    const long some = most(1, members == 1 ? tiles : tiles / pieces);
    for (long i = 0; wants_weights() && (i = team.claim(Team::kWeights) * some) < tiles;) {
      weights(i, least(i + some, tiles));
    }
  }

  // The cotangents of the final state; nothing has been given to a reset yet.
  void begin() const {
    for (long r = 0; r < f.B; ++r) {
      for (long j = 0; j < width; j += kLanes) {
        const long n = f.H - j;
        store(dh + r * width + j, n > 0 ? load(f.dh + r * f.H + j, n) : Vec{});
        if (f.resets) store(dh_reset + r * width + j, Vec{});
      }
    }
    if (!C::kMemory) return;
    pack_state(f.dc, f.B, f.H, dc);
    pack_state(f.c0, f.B, f.H, c_start);
    if (!f.resets) return;
    pack_state(f.c_reset, f.B, f.H, c_reset);
    for (long i = 0; i < P * f.B; ++i) store(dc_reset + i * kLanes, Vec{});
  }

  void finish() const {
    for (long r = 0; r < f.B; ++r) {
      for (long j = 0; j < f.H; j += kLanes) {
        const long n = f.H - j;
        if (f.dh0) store(f.dh0 + r * f.H + j, load(dh + r * width + j), n);
        if (f.dh_reset) store(f.dh_reset + r * f.H + j, load(dh_reset + r * width + j), n);
      }
    }
    if (f.dc0) unpack_state(dc, f.B * kLanes, f.B, f.H, f.dc0);
    if (f.dc_reset) unpack_state(dc_reset, f.B * kLanes, f.B, f.H, f.dc_reset);
  }

  // Cotangents of the sums of a step; dh and dc go from after it to what passes by the product.
  void step(const Share& share, long s) const {
    const long t = order.at(s);
    for (long p = share.p0; p < share.p1; ++p) {
      for (long r = share.r0; r < share.r1; ++r) {
        const long at = p * R + t * f.B + r;
        retreat(p, s, t, r, f.gates + at * kPanel, dz + at * kPanel);
      }
    }
  }

  void retreat(long p, long s, long t, long r, const float* gates, float* dz) const {
    const bool real = is_real(f, t, r);
    const float* left = left_h(f, f.hs, order, s, r);
    for (int u = 0; u < C::kUnits; ++u) {
      const long j = (p * C::kUnits + u) * kLanes, n = f.H - j;
      if (!real || n <= 0) {
        for (int v = 0; v < kSlots / C::kUnits; ++v) store(dz + (u + v) * kLanes, Vec{});
        continue;
      }
      float *to_h = dh + r * width + j, *to_c = dc + (p * f.B + r) * kLanes;
      Vec d = load(to_h) + load(f.dys + (t * f.B + r) * f.H + j, n), d_memory{};
      Vec past{}, past_memory{}, h_left{}, c_left{};
      if (C::kRecurrent) h_left = load(left + j, n);
      if (C::kMemory) {
        d_memory = load(to_c);
        c_left = load(memory.left(f, order, p, s, r));
      }
      if (f.hold_h) past = hold(f.hold_h, t, r, j, d);
      if (C::kMemory && f.hold_c) past_memory = hold(f.hold_c, t, r, j, d_memory);
      past += C::backward(gates + u * kLanes, dz + u * kLanes, h_left, c_left, d, d_memory, n);
      store(to_h, past);
      if (C::kMemory) store(to_c, d_memory + past_memory);
    }
  }

  // Divides a cotangent of zoneout: the old state's part is returned, the new state's is left.
  Vec hold(const float* hold, long t, long r, long j, Vec& d) const {
    const Vec part = load(hold + (t * f.B + r) * f.H + j, f.H - j);
    const Vec old = part * d;
    d = (1.0f - part) * d;
    return old;
  }

  // dh += dz W_hh^T, and what arrives at a reset goes to the reset state.
  void pass(const Share& share, long s) const {
    const long t = order.at(s);
    static const float zeros[kBlockLanes] = {};
    for (long q = share.q0; q < share.q1; ++q) {
      float product[kMost * kBlockLanes];
      const long j = q * kBlockLanes;
      Product x{dz + t * f.B * kPanel + C::kRecurrent * kLanes, kPanel, R * kPanel,
                w_hh + q * P * kDepth * kBlockLanes, kBlockLanes, P, kDepth,
                zeros, 0, product, kBlockLanes};
      each_tile(x, share.r0, share.r1, [&](long r, int n) {
        for (int i = 0; i < n; ++i) {
          for (int v = 0; v < kBlock; ++v) {
            float* to = dh + (r + i) * width + j + v * kLanes;
            const long lanes = f.H - j - v * kLanes;
            if (lanes <= 0) continue;
            Vec d = load(product + i * kBlockLanes + v * kLanes);
            if (f.noise) d *= load(f.noise + (r + i) * f.H + j + v * kLanes, lanes);
            store(to, load(to) + d);
          }
        }
      });
      if (f.resets) give_to_resets(dh, dh_reset, width, j, kBlock, t, share);
    }
    if (!C::kMemory || !f.resets) return;
    for (long p = share.p0; p < share.p1; ++p) {
      give_to_resets(dc + p * f.B * kLanes, dc_reset + p * f.B * kLanes, kLanes, 0, 1, t, share);
    }
  }

  void give_to_resets(float* d, float* d_reset, long row, long j, int vectors, long t,
                      const Share& share) const {
    for (long r = share.r0; r < share.r1; ++r) {
      if (!is_reset(f, t, r)) continue;
      for (int v = 0; v < vectors; ++v) {
        float *from = d + r * row + j + v * kLanes, *to = d_reset + r * row + j + v * kLanes;
        store(to, load(to) + load(from));
        store(from, Vec{});
      }
    }
  }

  // Tiles of a product whose result is a small buffer that is used at once.
  template <class Use>
  void each_tile(Product x, long r0, long r1, Use use) const {
    const float* a = x.a;
    const long n = r1 - r0, count = blocks_of(n, kMost);
    for (long i = 0; i < count; ++i) {
      const long r = r0 + part(n, i, count);
      const int rows = static_cast<int>(r0 + part(n, i + 1, count) - r);
      x.a = a + r * x.a_row;
      tile_of<kBlock, kMost>(rows, x, 0);
      use(r, rows);
    }
  }

  // dx = dz W_ih^T for rows of all steps.
  void inputs(long r0, long r1) const {
    static const float zeros[kBlockLanes] = {};
    for (long q = 0; q < Q_in; ++q) {
      float product[kMost * kBlockLanes];
      const Product x{dz, kPanel, R * kPanel, w_ih + q * P * kDepth * kBlockLanes, kBlockLanes,
                      P, kDepth, zeros, 0, product, kBlockLanes};
      each_tile(x, r0, r1, [&](long r, int n) {
        for (int i = 0; i < n; ++i) {
          float* to = f.dxs + (r + i) * f.I;
          for (int v = 0; v < kBlock; ++v) {
            const long j = q * kBlockLanes + v * kLanes;
            if (j < f.I) store(to + j, load(product + i * kBlockLanes + v * kLanes), f.I - j);
          }
        }
      });
    }
  }

  // Gradients of the weights for tiles of features: the inputs and 1, the states and 1.
  void weights(long begin, long end) const {
    static const float zeros[kDepth] = {};
    for (long k0 = 0; k0 < R; k0 += stretch) {
      const long n = least(stretch, R - k0);
      gather(begin, end, k0, n);
      for (long p = 0; p < P; ++p) {
        for (long i = begin; i < end; ++i) {
          float* sum = sums + (p * tiles + i) * kTile * kDepth;
          const long slot = i < input_tiles ? 0 : C::kRecurrent;
          const Product x{features + i * stretch * kTile, 0, 0,
                          dz + (p * R + k0) * kPanel + slot * kLanes, kPanel, 1, n,
                          k0 ? sum : zeros, k0 ? kDepth : 0, sum, kDepth};
          tile<kTile, C::kVectors, true>(x, 0);
        }
      }
    }
    for (long i = begin; i < end; ++i) spread(i);
  }

  // Features of rows [k0, k0 + n), one tile's side by side.
  void gather(long begin, long end, long k0, long n) const {
    for (long k = 0; k < n; ++k) {
      const long t = (k0 + k) / f.B, r = (k0 + k) % f.B;
      const long s = order.at(t);             // its own inverse
      const float *x = f.xs + (k0 + k) * f.I, *h = left_h(f, f.hs, order, s, r);
      for (long i = begin; i < end; ++i) {
        float* to = features + (i * stretch + k) * kTile;
        const bool input = i < input_tiles;
        const long j0 = (input ? i : i - input_tiles) * kTile, size = input ? f.I : f.H;
        const float* from = input ? x : h;
        for (long j = j0; j < j0 + kTile; ++j, ++to) {
          *to = j < size ? from[j] : j == size ? 1.0f : 0.0f;
          if (!input && f.noise && j < size) *to *= f.noise[r * f.H + j];
        }
      }
    }
  }

  // From the sums of a tile to the rows of the gradients.
  void spread(long i) const {
    const bool input = i < input_tiles;
    const long j0 = (input ? i : i - input_tiles) * kTile, size = input ? f.I : f.H;
    float* dw = input ? f.dw_ih : f.dw_hh;
    for (long j = j0; j < least(j0 + kTile, size + 1); ++j) {
      for (long p = 0; p < P; ++p) {
        const float* sum = sums + ((p * tiles + i) * kTile + j - j0) * kDepth;
        for (int v = 0; v < C::kVectors; ++v) {
          const long n = valid<C>(p, v, f.H), at = column<C>(!input, p, v, f.H);
          const Vec d = load(sum + v * kLanes);
          if (n == 0) continue;
          if (j < size) {
            if (dw) store(dw + j * C::kGates * f.H + at, d, n);
          } else if (input) {
            if (f.db) store(f.db + at, d, n);
          } else if (v == C::kVectors - 1 && f.db_hn) {
            store(f.db_hn + p * kLanes, d, n);
          }
        }
      }
    }
  }
};

}  // namespace SEQJAX_VARIANT
}  // namespace seqjax
