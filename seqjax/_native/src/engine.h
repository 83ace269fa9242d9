// The problems that the engine runs, as plain structs that are the same for all instruction sets.
//
// Arrays are row-major float32. R = T * B is the number of rows of all steps. A panel is a block of
// hidden units with four slots next to each other (see cells.h).
#pragma once

#include <cstdint>

namespace seqjax {

enum Cell : int32_t { kLstm, kGru, kElmanTanh, kElmanRelu };

class Team;  // the threads that work on one call, see team.h

// One sequence problem. The pointers of absent arrays are null.
struct Problem {
  Cell cell;
  bool reverse;
  long T, B, I, H;
  const float* xs;                      // [T, B, I]
  const float *h0, *c0;                 // [B, H]
  const float *w_ih, *w_hh, *b, *b_hn;  // [I, G*H], [H, G*H], [G*H], [H]
  const uint8_t *mask, *resets;         // [T, B]
  const float *h_reset, *c_reset;       // [B, H]
  const float* noise;                   // [B, H], multiplies the recurrent input
  const float *hold_h, *hold_c;         // [T, B, H], zoneout
  // Additive attention: before each step, the last output queries a memory of S positions, and the
  // context is the second part of the input. Without attention `keys` is null, and M is 0. With
  // attention there are no masks, resets, noise or zoneout.
  long S, U, M;
  const float *keys, *values;  // [B, S, U], [B, S, M]
  const uint8_t* positions;    // [B, S], nonzero at real positions
  const float *w_c, *w_q, *v;  // [M, G*H], [H, U], [U]
  const float* y0;             // [B, H], the query of the first step
};

// True if the threads divide the groups of units among themselves, not the rows of the batch.
static inline bool divides_units(const Problem& x, long groups, int threads) {
  return !x.keys && 1 < threads && threads <= groups && (x.B < 4 * threads || x.H >= 384);
}

struct Forward : Problem {
  float *ys, *h, *c;  // [T, B, H], [B, H], [B, H]
  // Arrays kept for the gradient, or null: activated gates [P, R, 4 * lanes], states c
  // [P, R, lanes], and, if there is a mask, states h [R, H] (without a mask they are the outputs).
  float *gates, *cs, *hs;
  float *contexts, *weights;  // [T, B, M], [T, B, S]
  float* queries;             // kept: [T, B, U], or null
};

struct Backward : Problem {
  const float *gates, *cs, *hs;  // kept arrays; hs are the outputs without a mask
  const float *dys, *dh, *dc;    // cotangents of the outputs and the final state
  // The gradients; null if a gradient is not wanted.
  float *dxs, *dh0, *dc0, *dw_ih, *dw_hh, *db, *db_hn, *dh_reset, *dc_reset;
  const float *queries, *contexts, *weights;
  const float *dcontexts, *dweights;  // cotangents
  // The gradients of the attention; dqueries, [T, B, U], stands for that of w_q.
  float *dkeys, *dvalues, *dw_c, *dqueries, *dv, *dy0;
};

// The cross entropy of a linear read-out of N positions with H features and C classes.
struct Readout {
  long N, H, C;
  bool transposed;  // the kernel and its gradient are [C, H], not [H, C]
  float smoothing;
  const float *hidden, *kernel, *bias;  // [N, H], [H, C], [C] or null
  const int32_t* labels;                // [N], in [0, C)
  const uint8_t* real;                  // [N]; the other positions have no scores and no gradients
  float *nats, *hits;                   // [N]
  // The gradients of `scale` times the sum of `nats`; null if a gradient is not wanted.
  const float* scale;  // one number
  float *dhidden, *dkernel, *dbias;
};

// The engine for one instruction set.
struct Engine {
  long lanes;                                            // floats in a vector
  long (*forward_scratch)(const Forward&, int workers);  // in floats
  void (*forward)(const Forward&, float* scratch, Team&, int id);
  long (*backward_scratch)(const Backward&, int workers);
  void (*backward)(const Backward&, float* scratch, Team&, int id);
  long (*readout_scratch)(const Readout&, int workers);
  void (*readout)(const Readout&, float* scratch, Team&, int id);
};

}  // namespace seqjax
