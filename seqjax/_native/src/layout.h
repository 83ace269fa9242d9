// The layout of data: panels of units, packed matrices, scratch memory.
#pragma once

#include "cells.h"
#include "engine.h"
#include "products.h"

namespace seqjax {
namespace SEQJAX_VARIANT {

// Allocates parts of the scratch memory. Without memory it only counts the floats.
class Scratch {
 public:
  explicit Scratch(float* memory) : memory_(memory) {}
  float* take(long floats) {
    float* p = memory_ ? memory_ + used_ : nullptr;
    used_ += blocks_of(floats, 16) * 16;
    return p;
  }
  long used() const { return used_; }

 private:
  float* memory_;
  long used_ = 0;
};

constexpr int kBlock = 2;  // vectors in a block of a transposed matrix
constexpr int kBlockLanes = kBlock * kLanes;

template <class C>
long panels_of(long H) {
  return blocks_of(H, C::kUnits * kLanes);
}

// The first column in the matrix, and the number of valid lanes, of slot v of panel p.
template <class C>
SEQJAX_INLINE long column(bool recurrent, long p, int v, long H) {
  return C::kUnits == 1 ? C::gate(recurrent, v) * H + p * kLanes : (p * C::kUnits + v) * kLanes;
}
template <class C>
SEQJAX_INLINE long valid(long p, int v, long H) {
  const long begin = (C::kUnits == 1 ? p : p * C::kUnits + v) * kLanes;
  return most(0, least(kLanes, H - begin));
}

// Packs w [K, G*H] to panels [P][K][vectors]. K is 1 for a bias; a null pointer means zeros.
template <class C>
void pack(const float* w, bool recurrent, long K, long H, long p0, long p1, float* out) {
  for (long p = p0; p < p1; ++p) {
    for (long k = 0; k < K; ++k) {
      for (int v = 0; v < C::kVectors; ++v) {
        float* to = out + ((p * K + k) * C::kVectors + v) * kLanes;
        const long n = valid<C>(p, v, H);
        const float* from = w ? w + k * C::kGates * H + column<C>(recurrent, p, v, H) : nullptr;
        store(to, from && n > 0 ? load(from, n) : Vec{});
      }
    }
  }
}

// Packs the transpose of w [N, G*H] by blocks of its rows: [Q][P][vectors * lanes][block].
template <class C>
void pack_transposed(const float* w, bool recurrent, long N, long H, long q0, long q1, float* out) {
  const long P = panels_of<C>(H), depth = C::kVectors * kLanes;
  for (long q = q0; q < q1; ++q) {
    for (long p = 0; p < P; ++p) {
      float* to = out + (q * P + p) * depth * kBlockLanes;
      for (int v = 0; v < C::kVectors; ++v) {
        const long n = valid<C>(p, v, H);
        for (long j = 0; j < kBlockLanes; ++j) {
          const long row = q * kBlockLanes + j;
          const bool real = row < N && n > 0;
          const Vec values =
              real ? load(w + row * C::kGates * H + column<C>(recurrent, p, v, H), n) : Vec{};
          for (int l = 0; l < kLanes; ++l) to[(v * kLanes + l) * kBlockLanes + j] = values[l];
        }
      }
    }
  }
}

// Packs s [B, H] to panels of one vector, [H / lanes][B][lanes], and unpacks it.
static void pack_state(const float* s, long B, long H, float* out) {
  for (long j = 0; j * kLanes < H; ++j) {
    for (long r = 0; r < B; ++r) {
      store(out + (j * B + r) * kLanes, load(s + r * H + j * kLanes, H - j * kLanes));
    }
  }
}
static void unpack_state(const float* panels, long panel, long B, long H, float* s) {
  for (long j = 0; j * kLanes < H; ++j) {
    for (long r = 0; r < B; ++r) {
      store(s + r * H + j * kLanes, load(panels + j * panel + r * kLanes), H - j * kLanes);
    }
  }
}

// A member's share of the work. The members divide the batch or, if the batch is small or the
// matrices are large, the units. If they divide the units, each member reads a part of the
// matrices, and all members wait for each other at every step. Units are divided by groups of a
// panel's width, so that each member reads the cotangents that it wrote itself.
struct Share {
  bool by_units;
  long r0, r1;  // rows of the batch
  long p0, p1;  // panels
  long q0, q1;  // blocks of units
};

template <class C>
Share share_of(const Problem& x, int id, int members) {
  const long P = panels_of<C>(x.H), groups = blocks_of(x.H, kPanel);
  const long per_group = kSlots / C::kUnits;
  Share s{divides_units(x, groups, members), 0, x.B, 0, P, 0, 2 * groups};
  if (s.by_units) {
    const long g0 = part(groups, id, members), g1 = part(groups, id + 1, members);
    s.p0 = least(per_group * g0, P);
    s.p1 = least(per_group * g1, P);
    s.q0 = 2 * g0;
    s.q1 = 2 * g1;
  } else {
    s.r0 = part(x.B, id, members);
    s.r1 = part(x.B, id + 1, members);
  }
  return s;
}

// The order of the steps: step s of the loop is step t of the arrays.
struct Order {
  long T;
  bool reverse;
  long at(long s) const { return reverse ? T - 1 - s : s; }
};

SEQJAX_INLINE bool is_reset(const Problem& x, long t, long r) {
  return x.resets && x.resets[t * x.B + r];
}
SEQJAX_INLINE bool is_real(const Problem& x, long t, long r) {
  return !x.mask || x.mask[t * x.B + r];
}

// The state h before step s, after a reset.
SEQJAX_INLINE const float* left_h(const Problem& x, const float* hs, const Order& order, long s,
                                  long r) {
  if (is_reset(x, order.at(s), r)) return x.h_reset + r * x.H;
  return (s == 0 ? x.h0 : hs + order.at(s - 1) * x.B * x.H) + r * x.H;
}

// The states c, after each step and before the first one, in panels [H / lanes][T or 1][B][lanes].
struct Memory {
  float* cs;
  long steps;                  // 1: only the last state is kept
  const float *start, *reset;  // [H / lanes][B][lanes]
  float* at(const Problem& x, long p, long t, long r) const {
    return cs + ((p * steps + (steps == 1 ? 0 : t)) * x.B + r) * kLanes;
  }
  const float* left(const Problem& x, const Order& order, long p, long s, long r) const {
    if (is_reset(x, order.at(s), r)) return reset + (p * x.B + r) * kLanes;
    if (s == 0) return start + (p * x.B + r) * kLanes;
    return at(x, p, order.at(s - 1), r);
  }
};

}  // namespace SEQJAX_VARIANT
}  // namespace seqjax
