// Vectors of floats, with the vector extensions of the compiler, as wide as those of the
// instruction set.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define SEQJAX_INLINE static inline __attribute__((always_inline))

namespace seqjax {
namespace SEQJAX_VARIANT {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / 4;

typedef float Vec __attribute__((vector_size(kBytes)));
typedef int Bits __attribute__((vector_size(kBytes)));
typedef float Unaligned __attribute__((vector_size(kBytes), aligned(4), may_alias));

SEQJAX_INLINE Vec load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
SEQJAX_INLINE void store(float* p, Vec v) { *reinterpret_cast<Unaligned*>(p) = v; }
// `x - Vec{}` rather than `Vec{} + x`, which compilers translate to an addition and a shuffle.
SEQJAX_INLINE Vec broadcast(float x) { return x - Vec{}; }

// Loads or stores the first n lanes. Loads set the other lanes to zero; stores do not write them.
SEQJAX_INLINE Vec load(const float* p, long n) {
  if (n >= kLanes) return load(p);
#if defined(__AVX512F__)
  return Vec(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p));
#else
  Vec v{};
  for (long i = 0; i < n; ++i) v[i] = p[i];
  return v;
#endif
}
SEQJAX_INLINE void store(float* p, Vec v, long n) {
  if (n >= kLanes) return store(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), __m512(v));
#else
  for (long i = 0; i < n; ++i) p[i] = v[i];
#endif
}
// Sets all but the first n lanes to zero, even if they are NaN (0 * NaN would be NaN).
SEQJAX_INLINE Vec first(Vec v, long n) {
  if (n >= kLanes) return v;
#if defined(__AVX512F__)
  return Vec(_mm512_maskz_mov_ps(static_cast<__mmask16>((1u << n) - 1), __m512(v)));
#else
  for (long i = n < 0 ? 0 : n; i < kLanes; ++i) v[i] = 0;
  return v;
#endif
}

// 1 / d for a number d that is neither zero, denormal nor infinite.
SEQJAX_INLINE Vec reciprocal(Vec d) {
#if defined(__AVX512F__)
  const Vec r = Vec(_mm512_rcp14_ps(__m512(d)));
  return r * (2.0f - d * r);  // one step of Newton's method: 14 accurate bits become 28
#else
  return 1.0f / d;
#endif
}

// x P(x²) / Q(x²), the best approximation of this form and these degrees on [-8.5, 8.5]. Its
// relative error is 4e-8. Outside of the interval tanh x rounds to ±1. The comparisons are false
// for NaN, so the result is NaN for NaN.
SEQJAX_INLINE Vec tanh(Vec x) {
  const Vec end = broadcast(8.5f);
  x = x > end ? end : x;
  x = x < -end ? -end : x;
  const Vec s = x * x;
  Vec p = broadcast(2.072377766e-11f);
  p = p * s + -1.371886819e-08f;
  p = p * s + 9.573717714e-06f;
  p = p * s + 2.953874970e-03f;
  p = p * s + 1.294988854e-01f;
  p = p * s + 9.999999657e-01f;
  Vec q = broadcast(2.327028696e-04f);
  q = q * s + 2.389828804e-02f;
  q = q * s + 4.628319186e-01f;
  q = q * s + 1.0f;
  return x * p * reciprocal(q);
}

// e^x for x <= 88, NaN for NaN; 0 below -87, where e^x is denormal. The relative error is 1e-7.
SEQJAX_INLINE Vec exp(Vec x) {
  const Vec low = broadcast(-87.0f);
  const Vec c = x < low ? low : x;
  // c = n ln 2 + r. Adding 1.5 * 2^23 rounds to an integer n, which is in the lowest bits then.
  const Vec rounded = c * 1.442695041f + 12582912.0f;
  const Vec n = rounded - 12582912.0f;
  const Vec r = (c - n * 6.931457520e-01f) - n * 1.428606820e-06f;
  Vec p = broadcast(1.381453815e-03f);
  p = p * r + 8.368745316e-03f;
  p = p * r + 4.166839083e-02f;
  p = p * r + 1.666652040e-01f;
  p = p * r + 4.999999343e-01f;
  p = p * r * r + r + 1.0f;
  const Vec power = Vec((Bits(rounded) << 23) + 0x3f800000);
  return x < low ? Vec{} : p * power;
}

SEQJAX_INLINE Vec sigmoid(Vec x) { return 0.5f + 0.5f * tanh(0.5f * x); }

}  // namespace SEQJAX_VARIANT
}  // namespace seqjax
