// The interface between cells and loops: the layout of a cell's matrices, and the pointwise part of
// one step for one vector of units, after the products.
//
// A panel has four slots of one vector each. For LSTM and GRU the slots are four quantities of the
// same units. A simple network has one quantity, and its slots are four vectors of units.
//
//   kVectors      number of slots that each product fills
//   kRecurrent    the first slot of the recurrent product; the input's product begins at slot 0
//   kUnits        number of vectors of units in a panel
//   kGates        number of gates in the matrices, [K, kGates * H]
//   kMemory       whether there is a second state, c
//   gate(r, v)    the gate in the v-th slot of the recurrent product if r, else of the input's
//                 product
//   forward       replaces the sums in `z` by the activated gates; returns h
//   backward      computes `dz`, the cotangents of the sums, from the cotangents of h and c;
//                 replaces the cotangent of c after the step by that of c before the step; returns
//                 the part of the cotangent of h before the step that bypasses the product
#pragma once

#include "vectors.h"

namespace seqjax {
namespace SEQJAX_VARIANT {

constexpr int kSlots = 4, kPanel = kSlots * kLanes;

// Slots i, f, g, o:  c = f c' + i g,  h = o tanh(c)
struct LstmCell {
  static constexpr int kVectors = 4, kRecurrent = 0, kUnits = 1, kGates = 4;
  static constexpr bool kMemory = true;
  static int gate(bool, int v) { return v; }

  SEQJAX_INLINE Vec forward(float* z, Vec, Vec& c) {
    const Vec i = sigmoid(load(z)), f = sigmoid(load(z + kLanes));
    const Vec g = tanh(load(z + 2 * kLanes)), o = sigmoid(load(z + 3 * kLanes));
    store(z, i);
    store(z + kLanes, f);
    store(z + 2 * kLanes, g);
    store(z + 3 * kLanes, o);
    c = f * c + i * g;
    return o * tanh(c);
  }

  SEQJAX_INLINE Vec backward(const float* gates, float* dz, Vec, Vec c_left, Vec dh, Vec& dc,
                             long n) {
    const Vec i = load(gates), f = load(gates + kLanes);
    const Vec g = load(gates + 2 * kLanes), o = load(gates + 3 * kLanes);
    const Vec t = tanh(f * c_left + i * g);
    dc += dh * o * (1.0f - t * t);
    store(dz, first(dc * g * i * (1.0f - i), n));
    store(dz + kLanes, first(dc * c_left * f * (1.0f - f), n));
    store(dz + 2 * kLanes, first(dc * i * (1.0f - g * g), n));
    store(dz + 3 * kLanes, first(dh * t * o * (1.0f - o), n));
    dc = dc * f;
    return Vec{};
  }
};

// Slots n, r, z, q, where q is the recurrent product inside n:  n = tanh(p + r q),
// h = (1 - z) n + z h'
struct GruCell {
  static constexpr int kVectors = 3, kRecurrent = 1, kUnits = 1, kGates = 3;
  static constexpr bool kMemory = false;
  static int gate(bool recurrent, int v) { return recurrent ? v : (v + 2) % 3; }

  SEQJAX_INLINE Vec forward(float* s, Vec h_left, Vec&) {
    const Vec r = sigmoid(load(s + kLanes)), z = sigmoid(load(s + 2 * kLanes));
    const Vec n = tanh(load(s) + r * load(s + 3 * kLanes));
    store(s, n);
    store(s + kLanes, r);
    store(s + 2 * kLanes, z);
    return (1.0f - z) * n + z * h_left;
  }

  SEQJAX_INLINE Vec backward(const float* gates, float* dz, Vec h_left, Vec, Vec dh, Vec&,
                             long valid) {
    const Vec n = load(gates), r = load(gates + kLanes);
    const Vec z = load(gates + 2 * kLanes), q = load(gates + 3 * kLanes);
    const Vec dn = dh * (1.0f - z) * (1.0f - n * n);
    store(dz, first(dn, valid));
    store(dz + kLanes, first(dn * q * r * (1.0f - r), valid));
    store(dz + 2 * kLanes, first(dh * (h_left - n) * z * (1.0f - z), valid));
    store(dz + 3 * kLanes, first(dn * r, valid));
    return dh * z;
  }
};

// One slot, h = tanh(z) or max(z, 0).
template <bool kRelu>
struct ElmanCell {
  static constexpr int kVectors = 4, kRecurrent = 0, kUnits = 4, kGates = 1;
  static constexpr bool kMemory = false;
  static int gate(bool, int) { return 0; }

  SEQJAX_INLINE Vec forward(float* z, Vec, Vec&) {
    const Vec x = load(z);
    const Vec h = kRelu ? (x < 0.0f ? Vec{} : x) : tanh(x);
    store(z, h);
    return h;
  }

  SEQJAX_INLINE Vec backward(const float* gates, float* dz, Vec, Vec, Vec dh, Vec&, long n) {
    const Vec h = load(gates);
    store(dz, first(kRelu ? (h > 0.0f ? dh : Vec{}) : dh * (1.0f - h * h), n));
    return Vec{};
  }
};

}  // namespace SEQJAX_VARIANT
}  // namespace seqjax
