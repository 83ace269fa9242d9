// The backward loop, and the products after it, which are the gradients of inputs and weights.
#pragma once

#include "attention.h"
#include "team.h"

namespace seqjax {
namespace SEQJAX_VARIANT {

constexpr long kGathered = 2 << 20;  // floats of features that are gathered at once

template <class C>
struct BackwardLoop {
  static constexpr long kDepth = C::kVectors * kLanes;
  static constexpr int kTile = rows_of_tile(C::kVectors), kMost = rows_of_tile(kBlock);

  const Backward& f;
  Order order;
  long P, R, Q, Q_in, width;  // panels, rows, blocks of units/inputs, width of dh
  long input_tiles, tiles;    // tiles of features
  long stretch, gathered;     // rows of one product; rows gathered at once
  float *w_hh, *w_ih;         // packed and transposed
  float *c_start, *c_reset;
  float *dz, *dh, *dc;  // [P][R][kPanel], [B][width], [P][B][lanes]
  float *dh_reset, *dc_reset;
  float* input;     // [workers][I + M]: a row of inputs and context
  float* features;  // [gathered / stretch][tiles][stretch][kTile]
  float* sums;      // [P][tiles][kTile][kDepth]
  Memory memory;
  BackwardAttention<C> attention;

  BackwardLoop(const Backward& f, int workers, Scratch& scratch)
      : f(f), order{f.T, f.reverse}, P(panels_of<C>(f.H)), R(f.T * f.B), attention(f, scratch) {
    width = blocks_of(f.H, kPanel) * kPanel;
    Q = width / kBlockLanes;
    Q_in = blocks_of(f.I, kBlockLanes);
    // A feature that is always 1 gives the gradient of the bias.
    input_tiles = blocks_of(f.I + f.M + 1, kTile);
    tiles = input_tiles + blocks_of(f.H + (C::kRecurrent ? 1 : 0), kTile);
    stretch = (f.I + f.M + f.H) * P * kPanel > (1 << 19) ? 384 : 128;
    const long most_gathered = most(1, kGathered / (tiles * stretch * kTile));
    gathered = least(most_gathered, blocks_of(R, stretch)) * stretch;
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
    input = scratch.take(f.keys ? workers * (f.I + f.M) : 0);
    features = scratch.take(wants_weights() ? tiles * gathered * kTile : 0);
    sums = scratch.take(wants_weights() ? P * tiles * kTile * kDepth : 0);
    memory = Memory{const_cast<float*>(f.cs), f.T, c_start, c_reset};
  }

  bool wants_weights() const { return f.dw_ih || f.dw_c || f.dw_hh || f.db || f.db_hn; }

  void work(Team& team, int id) const {
    const int members = team.size();
    const auto my = [&](long n) { return part(n, id, members); };
    const auto next = [&](long n) { return part(n, id + 1, members); };
    pack_transposed<C>(f.w_hh, true, f.H, f.H, my(Q), next(Q), w_hh);
    if (f.dxs) pack_transposed<C>(f.w_ih, false, f.I, f.H, my(Q_in), next(Q_in), w_ih);
    if (f.keys) attention.pack_weights(id, members);
    const Share share = share_of<C>(f, id, members);
    if (f.keys) attention.begin(share);
    if (id == 0) begin();
    team.barrier();
    for (long s = f.T; s-- > 0;) {
      step(share, s);
      if (share.by_units) team.barrier();
      pass(share, s);
      if (f.keys) attend(share, s);
    }
    if (f.dvalues) attention.values(share);
    team.barrier();
    if (id == 0) finish();
    // Several threads take small pieces. A single thread takes pieces that fit into the caches.
    const long pieces = members == 1 ? 1 : 4 * members;
    const long rows = most(kMost, least(16 * kMost, R / pieces));
    for (long i = 0; f.dxs && (i = team.claim(Team::kInputs) * rows) < R;) {
      inputs(i, least(i + rows, R));
    }
    if (wants_weights()) all_weights(team, id);
  }

  // Sets the cotangents of the state to those of the final state, and those of reset states to 0.
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
    if (f.keys) attention.finish();
    if (f.dc0) unpack_state(dc, f.B * kLanes, f.B, f.H, f.dc0);
    if (f.dc_reset) unpack_state(dc_reset, f.B * kLanes, f.B, f.H, f.dc_reset);
  }

  // Computes dz, the cotangents of the sums of a step. On entry, dh and dc are the cotangents of
  // the state after the step. On return, they are the cotangents of the state before the step,
  // except for the part of dh that passes through the recurrent product.
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

  // Splits the cotangent d by zoneout. Returns the part of the old state, and leaves the part of
  // the new state in d.
  Vec hold(const float* hold, long t, long r, long j, Vec& d) const {
    const Vec part = load(hold + (t * f.B + r) * f.H + j, f.H - j);
    const Vec old = part * d;
    d = (1.0f - part) * d;
    return old;
  }

  // dh += dz W_hh^T. At a reset, the cotangents of the state are added to those of the reset state.
  void pass(const Share& share, long s) const {
    const long t = order.at(s);
    static const float zeros[kBlockLanes] = {};
    for (long q = share.q0; q < share.q1; ++q) {
      float product[kMost * kBlockLanes];
      const long j = q * kBlockLanes;
      Product x{dz + t * f.B * kPanel + C::kRecurrent * kLanes,
                kPanel,
                R * kPanel,
                w_hh + q * P * kDepth * kBlockLanes,
                kBlockLanes,
                P,
                kDepth,
                zeros,
                0,
                product,
                kBlockLanes};
      each_tile<kBlock>(x, share.r0, share.r1, [&](long r, int n) {
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

  // The attention of step s: its gradient reaches the output of step s - 1, or the first query.
  void attend(const Share& share, long s) const {
    const long t = order.at(s);
    const float* cotangents = dz + t * f.B * kPanel;
    if (s) return attention.retreat(share, t, cotangents, R * kPanel, dh, width);
    float* first = attention.dy0;
    attention.retreat(share, t, cotangents, R * kPanel, first, f.H);
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

  // dx = dz W_ih^T for rows of all steps.
  void inputs(long r0, long r1) const {
    static const float zeros[kBlockLanes] = {};
    for (long q = 0; q < Q_in; ++q) {
      float product[kMost * kBlockLanes];
      const Product x{dz,          kPanel,  R * kPanel, w_ih + q * P * kDepth * kBlockLanes,
                      kBlockLanes, P,       kDepth,     zeros,
                      0,           product, kBlockLanes};
      each_tile<kBlock>(x, r0, r1, [&](long r, int n) {
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

  // Computes the gradients of the weights. First all members gather the features; then each member
  // takes pieces of the sums. A piece is a range of panels by a range of tiles. Panels are divided
  // first, so that a member reads only its own part of dz.
  void all_weights(Team& team, int id) const {
    const int members = team.size();
    const long wanted = members == 1 ? 1 : 2 * members;
    const long by_panel = least(P, wanted), by_tile = least(tiles, blocks_of(wanted, by_panel));
    const long pieces = by_panel * by_tile;
    long piece = team.claim(Team::kWeights);
    for (long k0 = 0, done = 0; k0 < R; k0 += gathered, done += pieces) {
      const long n = least(gathered, R - k0);
      if (k0) team.barrier();
      gather(k0, part(n, id, members), part(n, id + 1, members), input + id * (f.I + f.M));
      team.barrier();
      for (; piece < done + pieces; piece = team.claim(Team::kWeights)) {
        const long of_panels = (piece - done) / by_tile, of_tiles = (piece - done) % by_tile;
        const long p0 = part(P, of_panels, by_panel), p1 = part(P, of_panels + 1, by_panel);
        const long i0 = part(tiles, of_tiles, by_tile), i1 = part(tiles, of_tiles + 1, by_tile);
        weights(k0, n, p0, p1, i0, i1);
        if (k0 + n == R) spread(p0, p1, i0, i1);
      }
    }
  }

  // Adds rows [first, first + count) to the sums of some panels and tiles.
  void weights(long first, long count, long p0, long p1, long i0, long i1) const {
    static const float zeros[kDepth] = {};
    for (long k = 0; k < count; k += stretch) {
      const long k0 = first + k, n = least(stretch, count - k);
      for (long p = p0; p < p1; ++p) {
        for (long i = i0; i < i1; ++i) {
          float* sum = sums + (p * tiles + i) * kTile * kDepth;
          const long slot = i < input_tiles ? 0 : C::kRecurrent;
          const Product x{at(k, i),        0,   0,     dz + (p * R + k0) * kPanel + slot * kLanes,
                          kPanel,          1,   n,     k0 ? sum : zeros,
                          k0 ? kDepth : 0, sum, kDepth};
          tile<kTile, C::kVectors, kTile>(x, 0);
        }
      }
    }
  }

  // The features of tile i in the k-th gathered row.
  float* at(long k, long i) const {
    return features + ((k / stretch * tiles + i) * stretch + k % stretch) * kTile;
  }

  // Gathers the features of rows first + [begin, end): the inputs with the contexts, a 1, the
  // states, and a 1. The features of a tile are contiguous. `input` is memory for one row.
  void gather(long first, long begin, long end, float* input) const {
    for (long k = begin; k < end; ++k) {
      const long t = (first + k) / f.B, r = (first + k) % f.B;
      const long s = order.at(t);  // `at` is its own inverse
      const float *x = f.xs + (first + k) * f.I, *h = left_h(f, f.hs, order, s, r);
      if (f.keys) {
        __builtin_memcpy(input, x, f.I * sizeof(float));
        __builtin_memcpy(input + f.I, f.contexts + (first + k) * f.M, f.M * sizeof(float));
        x = input;
      }
      for (long i = 0; i < input_tiles; ++i) {
        gather_tile(x, f.I + f.M, i * kTile, nullptr, at(k, i));
      }
      const float* noise = f.noise ? f.noise + r * f.H : nullptr;
      for (long i = input_tiles; i < tiles; ++i) {
        gather_tile(h, f.H, (i - input_tiles) * kTile, noise, at(k, i));
      }
    }
  }

  SEQJAX_INLINE void gather_tile(const float* from, long size, long j0, const float* noise,
                                 float* to) {
    if (j0 + kTile <= size && !noise) {
      __builtin_memcpy(to, from + j0, kTile * sizeof(float));
      return;
    }
    for (long j = j0; j < j0 + kTile; ++j, ++to) {
      *to = j < size ? from[j] : j == size ? 1.0f : 0.0f;
      if (noise && j < size) *to *= noise[j];
    }
  }

  // The gradient of row j of the input's or the recurrent matrix, or null if it is not wanted.
  float* row_of_weights(bool input, long j) const {
    const bool of_context = input && j >= f.I;
    float* dw = !input ? f.dw_hh : of_context ? f.dw_c : f.dw_ih;
    return dw ? dw + (of_context ? j - f.I : j) * C::kGates * f.H : nullptr;
  }

  // Copies the sums of some panels and tiles to the gradients.
  void spread(long p0, long p1, long i0, long i1) const {
    for (long i = i0; i < i1; ++i) {
      const bool input = i < input_tiles;
      const long j0 = (input ? i : i - input_tiles) * kTile, size = input ? f.I + f.M : f.H;
      for (long j = j0; j < least(j0 + kTile, size + 1); ++j) {
        float* dw = row_of_weights(input, j);
        for (long p = p0; p < p1; ++p) {
          const float* sum = sums + ((p * tiles + i) * kTile + j - j0) * kDepth;
          for (int v = 0; v < C::kVectors; ++v) {
            const long n = valid<C>(p, v, f.H), at = column<C>(!input, p, v, f.H);
            const Vec d = load(sum + v * kLanes);
            if (n == 0) continue;
            if (j < size) {
              if (dw) store(dw + at, d, n);
            } else if (input) {
              if (f.db) store(f.db + at, d, n);
            } else if (v == C::kVectors - 1 && f.db_hn) {
              store(f.db_hn + p * kLanes, d, n);
            }
          }
        }
      }
    }
  }
};

}  // namespace SEQJAX_VARIANT
}  // namespace seqjax
