// The forward loop. It computes the products of each step tile by tile, and runs the cell's
// pointwise step on each tile.
#pragma once

#include "attention.h"
#include "team.h"

namespace seqjax {
namespace SEQJAX_VARIANT {

constexpr long kChunk = 128 * 1024;  // floats of projections that are computed at once

template <class C>
struct ForwardLoop {
  const Forward& f;
  Order order;
  long P, ahead;                               // panels; steps that are projected at once
  float *w_ih, *w_hh, *bias, *recurrent_bias;  // packed
  float *c_start, *c_reset, *cs;
  float* zs;        // [P][T or ahead][B][kPanel]
  float* states;    // [T][B][H]: h after each step, often the outputs
  float* entering;  // [workers][B][H]: input of the recurrent product
  Memory memory;
  ForwardAttention<C> attention;

  ForwardLoop(const Forward& f, int workers, Scratch& scratch)
      : f(f), order{f.T, f.reverse}, P(panels_of<C>(f.H)), attention(f, scratch) {
    const long width = C::kVectors * kLanes;
    ahead = most(1, least(f.T, most(96 / f.B, kChunk / (f.B * P * kPanel))));
    w_ih = scratch.take(P * f.I * width);
    w_hh = scratch.take(P * f.H * width);
    bias = scratch.take(P * width);
    recurrent_bias = scratch.take(P * width);
    const long c = C::kMemory ? P * f.B * kLanes : 0;
    c_start = scratch.take(c);
    c_reset = scratch.take(f.resets ? c : 0);
    cs = f.cs ? f.cs : scratch.take(c);
    zs = f.gates ? f.gates : scratch.take(P * ahead * f.B * kPanel);
    states = !f.mask ? f.ys : f.hs ? f.hs : scratch.take(f.T * f.B * f.H);
    entering = scratch.take(f.resets || f.noise ? workers * f.B * f.H : 0);
    memory = Memory{cs, f.cs ? f.T : 1, c_start, c_reset};
  }

  // The sums of step t, which are later replaced by the gates of the step. `begin` is the smallest
  // index of the steps that were projected together with t.
  float* z(long p, long begin, long t, long r) const {
    const long steps = f.gates ? f.T : ahead;
    return zs + ((p * steps + (f.gates ? t : t - begin)) * f.B + r) * kPanel;
  }

  void work(Team& team, int id) const {
    const int members = team.size();
    const long p0 = part(P, id, members), p1 = part(P, id + 1, members);
    pack<C>(f.w_ih, false, f.I, f.H, p0, p1, w_ih);
    pack<C>(f.w_hh, true, f.H, f.H, p0, p1, w_hh);
    pack<C>(f.b, false, 1, f.H, p0, p1, bias);
    if (f.keys) attention.pack_weights(id, members);
    if (id == 0 && C::kMemory) {
      pack_state(f.c0, f.B, f.H, c_start);
      if (f.resets) pack_state(f.c_reset, f.B, f.H, c_reset);
    }
    if (C::kRecurrent) {  // the bias inside the last slot of the recurrent product
      for (long p = p0; p < p1; ++p) {
        const long n = valid<C>(p, 0, f.H);
        store(recurrent_bias + p * kLanes, f.b_hn ? load(f.b_hn + p * kLanes, n) : Vec{});
      }
    }
    team.barrier();
    const Share share = share_of<C>(f, id, members);
    for (long s0 = 0; s0 < f.T; s0 += ahead) {
      const long s1 = least(s0 + ahead, f.T);
      const long begin = f.reverse ? f.T - s1 : s0;
      // Members that divide the batch share the rows of all these steps differently from the rows
      // of one step, so that tiles are full.
      const long rows = (s1 - s0) * f.B;
      if (share.by_units) {
        project(begin, 0, rows, share.p0, share.p1);
      } else {
        if (s0 && !f.gates) team.barrier();
        project(begin, part(rows, id, members), part(rows, id + 1, members), 0, P);
        team.barrier();
      }
      for (long s = s0; s < s1; ++s) {
        step(share, s, begin, entering + id * f.B * f.H);
        if (share.by_units) team.barrier();
      }
    }
    if (share.by_units && id) return;
    const long last = order.at(f.T - 1);
    for (long r = share.r0; r < share.r1; ++r) {
      const float* h = states + (last * f.B + r) * f.H;
      for (long j = 0; j < f.H; j += kLanes) {
        store(f.h + r * f.H + j, load(h + j, f.H - j), f.H - j);
        if (C::kMemory) {
          store(f.c + r * f.H + j, load(memory.at(f, j / kLanes, last, r)), f.H - j);
        }
      }
    }
  }

  // z = x W_ih + b for rows [r0, r1) of the steps that begin with t, and for panels [p0, p1).
  void project(long t, long r0, long r1, long p0, long p1) const {
    for (long p = p0; p < p1; ++p) {
      float* out = z(p, t, t, 0);
      const Product x{f.xs + t * f.B * f.I,
                      f.I,
                      0,
                      w_ih + p * f.I * C::kVectors * kLanes,
                      C::kVectors * kLanes,
                      1,
                      f.I,
                      bias + p * C::kVectors * kLanes,
                      0,
                      out,
                      kPanel};
      multiply<C::kVectors>(x, r0, r1, [&](long r, int n) {
        if (!C::kRecurrent) return;
        for (int i = 0; i < n; ++i) {
          store(out + (r + i) * kPanel + 3 * kLanes, load(recurrent_bias + p * kLanes));
        }
      });
    }
  }

  void step(const Share& share, long s, long begin, float* entering) const {
    const long t = order.at(s);
    const float* h = s == 0 ? f.h0 : states + order.at(s - 1) * f.B * f.H;
    if (f.resets || f.noise) {
      for (long r = share.r0; r < share.r1; ++r) {
        const float* from = left_h(f, states, order, s, r);
        for (long j = 0; j < f.H; j += kLanes) {
          Vec v = load(from + j, f.H - j);
          if (f.noise) v *= load(f.noise + r * f.H + j, f.H - j);
          store(entering + r * f.H + j, v, f.H - j);
        }
      }
      h = entering;
    }
    if (f.keys) attention.attend(share, t, s == 0 ? f.y0 : h);
    for (long p = share.p0; p < share.p1; ++p) {
      if (f.keys) attention.add_context(share, p, t, z(p, begin, t, 0));
      float* sums = z(p, begin, t, 0) + C::kRecurrent * kLanes;
      const Product x{h,
                      f.H,
                      0,
                      w_hh + p * f.H * C::kVectors * kLanes,
                      C::kVectors * kLanes,
                      1,
                      f.H,
                      sums,
                      kPanel,
                      sums,
                      kPanel};
      multiply<C::kVectors>(x, share.r0, share.r1, [&](long r, int n) {
        for (int i = 0; i < n; ++i) advance(p, s, t, r + i, z(p, begin, t, r + i));
      });
    }
  }

  // The cell's step for one row of a panel, with zoneout, mask and output.
  void advance(long p, long s, long t, long r, float* z) const {
    const bool real = is_real(f, t, r);
    const long at = (t * f.B + r) * f.H;
    const float* left = left_h(f, states, order, s, r);
    for (int u = 0; u < C::kUnits; ++u) {
      const long j = (p * C::kUnits + u) * kLanes, n = f.H - j;
      if (n <= 0) break;
      Vec c{}, c_left{}, h_left{};
      if (C::kMemory) c = c_left = load(memory.left(f, order, p, s, r));
      if (C::kRecurrent || f.mask || f.hold_h) h_left = load(left + j, n);
      Vec h = C::forward(z + u * kLanes, h_left, c);
      if (f.hold_h) h = held(f.hold_h, t, r, j, h_left, h);
      if (C::kMemory && f.hold_c) c = held(f.hold_c, t, r, j, c_left, c);
      store(f.ys + at + j, real ? h : Vec{}, n);
      if (f.mask) store(states + at + j, real ? h : h_left, n);
      if (C::kMemory) store(memory.at(f, p, t, r), real ? c : c_left);
    }
  }

  Vec held(const float* hold, long t, long r, long j, Vec old, Vec now) const {
    const Vec part = load(hold + (t * f.B + r) * f.H + j, f.H - j);
    return part * old + (1.0f - part) * now;
  }
};

}  // namespace SEQJAX_VARIANT
}  // namespace seqjax
