// A test of the engine against plain loops in double precision, without Python, JAX or XLA, so that
// sanitizers can run it.
//
// Compile this file with engine.cc and team.cc of one variant, and run the program. It returns 0 if
// all checks pass.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "engine.h"
#include "team.h"

namespace seqjax {
namespace SEQJAX_VARIANT { extern const Engine engine; }

namespace {

using Floats = std::vector<float>;

struct Random {
  unsigned state = 1;
  unsigned next() { return state = state * 1664525u + 1013904223u; }
  float number() { return static_cast<float>(next() >> 8) / (1 << 23) - 1; }
  Floats floats(long n, float scale = 1) {
    Floats v(n);
    for (float& x : v) x = scale * number();
    return v;
  }
  std::vector<uint8_t> bits(long n, double share) {
    std::vector<uint8_t> v(n);
    for (uint8_t& x : v) x = number() < 2 * share - 1;
    return v;
  }
};

// One problem and its results. Its memory has exactly the size that it needs.
struct Case {
  Cell cell;
  long T, B, I, H, G;
  bool reverse, special, memory;
  Floats xs, h0, c0, w_ih, w_hh, b, b_hn, h_reset, c_reset, noise, hold_h, hold_c;
  std::vector<uint8_t> mask, resets;
  Floats dys, dh, dc;
  Floats ys, h, c, gates, cs, hs;
  Floats dxs, dh0, dc0, dw_ih, dw_hh, db, db_hn, dh_reset, dc_reset;
  // The attention of a decoder, if S > 0. The first sequence has no real position.
  long S, U, M;
  Floats keys, values, w_c, w_q, v, y0, dcontexts, dweights;
  std::vector<uint8_t> positions;
  Floats contexts, weights, queries;
  Floats dkeys, dvalues, dw_c, dqueries, dv, dy0;

  Case(Cell cell, long T, long B, long I, long H, bool reverse, bool special, long S, long U,
       long M)
      : cell(cell), T(T), B(B), I(I), H(H), G(cell == kLstm  ? 4
                                              : cell == kGru ? 3
                                                             : 1),
        reverse(reverse), special(special), memory(cell == kLstm), S(S), U(U), M(M) {
    Random random;
    xs = random.floats(T * B * I);
    h0 = random.floats(B * H);
    c0 = random.floats(B * H);
    w_ih = random.floats(I * G * H, 0.5f);
    w_hh = random.floats(H * G * H, 1 / std::sqrt(static_cast<float>(H)));
    b = random.floats(G * H);
    b_hn = random.floats(H);
    h_reset = random.floats(B * H);
    c_reset = random.floats(B * H);
    noise = random.floats(B * H);
    hold_h = random.floats(T * B * H, 0.5f);
    hold_c = random.floats(T * B * H, 0.5f);
    mask = random.bits(T * B, 0.7);
    resets = random.bits(T * B, 0.2);
    dys = random.floats(T * B * H);
    dh = random.floats(B * H);
    dc = random.floats(B * H);
    keys = random.floats(B * S * U);
    values = random.floats(B * S * M);
    w_c = random.floats(M * G * H, 1 / std::sqrt(static_cast<float>(M)));
    w_q = random.floats(H * U, 1 / std::sqrt(static_cast<float>(H)));
    v = random.floats(U, 2 / std::sqrt(static_cast<float>(U)));
    y0 = random.floats(B * H);
    positions = random.bits(B * S, 0.7);
    for (long s = 0; s < S; ++s) positions[s] = 0;
    dcontexts = random.floats(T * B * M);
    dweights = random.floats(T * B * S);
  }

  void fill(Problem& x) const {
    x.cell = cell;
    x.reverse = reverse;
    x.T = T;
    x.B = B;
    x.I = I;
    x.H = H;
    x.xs = xs.data();
    x.h0 = h0.data();
    x.w_ih = w_ih.data();
    x.w_hh = w_hh.data();
    x.b = b.data();
    if (cell == kGru) x.b_hn = b_hn.data();
    if (memory) x.c0 = c0.data();
    if (S) {
      x.S = S;
      x.U = U;
      x.M = M;
      x.keys = keys.data();
      x.values = values.data();
      x.positions = positions.data();
      x.w_c = w_c.data();
      x.w_q = w_q.data();
      x.v = v.data();
      x.y0 = y0.data();
    }
    if (!special) return;
    x.mask = mask.data();
    x.resets = resets.data();
    x.h_reset = h_reset.data();
    x.noise = noise.data();
    x.hold_h = hold_h.data();
    if (!memory) return;
    x.c_reset = c_reset.data();
    x.hold_c = hold_c.data();
  }

  template <class Call>
  static void perform(const Call& call, long (*scratch)(const Call&, int),
                      void (*run)(const Call&, float*, Team&, int), int threads) {
    const long floats = scratch(call, threads);
    float* memory = static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 63) / 64 * 64));
    struct Job {
      const Call& call;
      void (*run)(const Call&, float*, Team&, int);
      float* memory;
    } job{call, run, memory};
    Team team(
        [](void* data, Team& team, int id) {
          const Job& job = *static_cast<Job*>(data);
          job.run(job.call, job.memory, team, id);
        },
        &job);
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads; ++i) helpers.emplace_back([&team] { team.help(); });
    team.lead(threads - 1, 100000);  // long enough for all helpers to arrive
    for (std::thread& helper : helpers) helper.join();
    std::free(memory);
  }

  void run(int threads, bool store) {
    const Engine& engine = SEQJAX_VARIANT::engine;
    const long units = engine.lanes * (cell >= kElmanTanh ? 4 : 1), P = (H + units - 1) / units;
    ys.assign(T * B * H, 0);
    h.assign(B * H, 0);
    c.assign(B * H, 0);
    gates.assign(P * T * B * 4 * engine.lanes, 0);
    cs.assign(P * T * B * engine.lanes, 0);
    hs.assign(T * B * H, 0);
    Forward f{};
    fill(f);
    f.ys = ys.data();
    f.h = h.data();
    f.c = memory ? c.data() : nullptr;
    contexts.assign(T * B * M, 0);
    weights.assign(T * B * S, 0);
    queries.assign(T * B * U, 0);
    f.contexts = contexts.data();
    f.weights = weights.data();
    if (store) {
      f.queries = S ? queries.data() : nullptr;
      f.gates = gates.data();
      f.cs = memory ? cs.data() : nullptr;
      f.hs = f.mask ? hs.data() : nullptr;
    }
    perform(f, engine.forward_scratch, engine.forward, threads);
    if (!store) return;
    dxs.assign(xs.size(), 0);
    for (Floats* d : {&dh0, &dc0, &dh_reset, &dc_reset}) d->assign(B * H, 0);
    dw_ih.assign(w_ih.size(), 0);
    dw_hh.assign(w_hh.size(), 0);
    db.assign(b.size(), 0);
    db_hn.assign(H, 0);
    Backward g{};
    fill(g);
    g.gates = gates.data();
    g.cs = f.cs;
    g.hs = f.hs ? hs.data() : ys.data();
    g.dys = dys.data();
    g.dh = dh.data();
    g.dc = memory ? dc.data() : nullptr;
    g.dxs = dxs.data();
    g.dh0 = dh0.data();
    g.dw_ih = dw_ih.data();
    g.dw_hh = dw_hh.data();
    g.db = db.data();
    if (g.b_hn) g.db_hn = db_hn.data();
    if (memory) g.dc0 = dc0.data();
    if (g.resets) g.dh_reset = dh_reset.data();
    if (g.resets && memory) g.dc_reset = dc_reset.data();
    if (S) attend_back(g);
    perform(g, engine.backward_scratch, engine.backward, threads);
  }

  void attend_back(Backward& g) {
    g.queries = queries.data();
    g.contexts = contexts.data();
    g.weights = weights.data();
    g.dcontexts = dcontexts.data();
    g.dweights = dweights.data();
    // The results hold garbage before the call.
    dkeys.assign(keys.size(), NAN);
    dvalues.assign(values.size(), NAN);
    dw_c.assign(w_c.size(), NAN);
    dqueries.assign(T * B * U, NAN);
    dv.assign(U, NAN);
    dy0.assign(B * H, NAN);
    g.dkeys = dkeys.data();
    g.dvalues = dvalues.data();
    g.dw_c = dw_c.data();
    g.dqueries = dqueries.data();
    g.dv = dv.data();
    g.dy0 = dy0.data();
  }

  // The gradient of the query matrix: the sum of outer products of outputs and query gradients.
  Floats dw_q() const {
    std::vector<double> sum(H * U);
    for (long s = 0; s < T; ++s) {
      const long t = reverse ? T - 1 - s : s, before = reverse ? t + 1 : t - 1;
      for (long r = 0; r < B; ++r) {
        const float* y = s ? ys.data() + (before * B + r) * H : y0.data() + r * H;
        for (long j = 0; j < H; ++j) {
          for (long k = 0; k < U; ++k) {
            sum[j * U + k] += static_cast<double>(y[j]) * dqueries[(t * B + r) * U + k];
          }
        }
      }
    }
    return Floats(sum.begin(), sum.end());
  }

  // The weighted sum of all results, in double precision, computed by plain loops.
  double loss() const {
    const auto at = [](const Floats& v, long i) { return static_cast<double>(v[i]); };
    const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
    double sum = 0;
    for (long r = 0; r < B; ++r) {
      std::vector<double> state(H), cell_state(H), new_h(H), new_c(H), output(H), context(M);
      for (long j = 0; j < H; ++j) {
        state[j] = at(h0, r * H + j);
        cell_state[j] = at(c0, r * H + j);
        output[j] = at(y0, r * H + j);
      }
      for (long s = 0; s < T; ++s) {
        const long t = reverse ? T - 1 - s : s, row = t * B + r;
        if (special && resets[row]) {
          for (long j = 0; j < H; ++j) {
            state[j] = at(h_reset, r * H + j);
            cell_state[j] = at(c_reset, r * H + j);
          }
        }
        if (special && !mask[row]) continue;
        sum += attend(r, row, output, context);
        for (long j = 0; j < H; ++j) {
          double p[4], q[4] = {};
          for (long g = 0; g < G; ++g) {
            p[g] = at(b, g * H + j);
            for (long k = 0; k < I; ++k) {
              p[g] += at(xs, row * I + k) * at(w_ih, k * G * H + g * H + j);
            }
            for (long k = 0; k < M; ++k) p[g] += context[k] * at(w_c, k * G * H + g * H + j);
            for (long k = 0; k < H; ++k) {
              q[g] +=
                  state[k] * (special ? at(noise, r * H + k) : 1) * at(w_hh, k * G * H + g * H + j);
            }
          }
          if (cell == kLstm) {
            new_c[j] = sigmoid(p[1] + q[1]) * cell_state[j] +
                       sigmoid(p[0] + q[0]) * std::tanh(p[2] + q[2]);
            new_h[j] = sigmoid(p[3] + q[3]) * std::tanh(new_c[j]);
          } else if (cell == kGru) {
            const double z = sigmoid(p[1] + q[1]);
            const double n = std::tanh(p[2] + sigmoid(p[0] + q[0]) * (q[2] + at(b_hn, j)));
            new_h[j] = (1 - z) * n + z * state[j];
          } else {
            const double z = p[0] + q[0];
            new_h[j] = cell == kElmanRelu ? std::fmax(z, 0) : std::tanh(z);
          }
        }
        for (long j = 0; j < H; ++j) {
          const double held = special ? at(hold_h, row * H + j) : 0;
          const double held_c = special ? at(hold_c, row * H + j) : 0;
          state[j] = held * state[j] + (1 - held) * new_h[j];
          cell_state[j] = held_c * cell_state[j] + (1 - held_c) * new_c[j];
          sum += state[j] * at(dys, row * H + j);
        }
        output = state;
      }
      for (long j = 0; j < H; ++j) {
        sum += state[j] * at(dh, r * H + j);
        if (memory) sum += cell_state[j] * at(dc, r * H + j);
      }
    }
    return sum;
  }

  // Computes the context of one row, and returns the weighted sum of context and weights.
  double attend(long r, long row, const std::vector<double>& y,
                std::vector<double>& context) const {
    std::vector<double> a(S);
    double total = 0, sum = 0;
    for (long s = 0; s < S; ++s) {
      if (!positions[r * S + s]) continue;
      double e = 0;
      for (long k = 0; k < U; ++k) {
        double x = keys[(r * S + s) * U + k];
        for (long j = 0; j < H; ++j) x += y[j] * w_q[j * U + k];
        e += v[k] * std::tanh(x);
      }
      total += a[s] = std::exp(e);
    }
    context.assign(M, 0);
    for (long s = 0; s < S; ++s) {
      if (total > 0) a[s] /= total;
      sum += a[s] * dweights[row * S + s];
      for (long k = 0; k < M; ++k) context[k] += a[s] * values[(r * S + s) * M + k];
    }
    for (long k = 0; k < M; ++k) sum += context[k] * dcontexts[row * M + k];
    return sum;
  }

  // The same sum of the engine's results.
  double engine_loss() const {
    double sum = 0;
    for (size_t i = 0; i < ys.size(); ++i) sum += static_cast<double>(ys[i]) * dys[i];
    for (size_t i = 0; i < h.size(); ++i) sum += static_cast<double>(h[i]) * dh[i];
    for (size_t i = 0; memory && i < c.size(); ++i) sum += static_cast<double>(c[i]) * dc[i];
    for (size_t i = 0; i < contexts.size(); ++i) {
      sum += static_cast<double>(contexts[i]) * dcontexts[i];
    }
    for (size_t i = 0; i < weights.size(); ++i)
      sum += static_cast<double>(weights[i]) * dweights[i];
    return sum;
  }

  // Compares the slope along a random direction of one array by differences and by its gradient.
  bool slope_agrees(const char* name, Floats& array, const Floats& gradient) {
    Random random;
    const Floats direction = random.floats(static_cast<long>(array.size())), kept = array;
    const float size = 1.0f / 1024;
    double expected = 0, got = 0, scale = 1e-3;
    for (int sign : {1, -1}) {
      for (size_t i = 0; i < array.size(); ++i) array[i] = kept[i] + sign * size * direction[i];
      expected += sign * loss() / (2 * size);
    }
    array = kept;
    for (size_t i = 0; i < array.size(); ++i) {
      got += static_cast<double>(gradient[i]) * direction[i];
      scale += std::fabs(gradient[i] * direction[i]);
    }
    // Rounding the moved float32 numbers changes the difference by about 1 part in 2^14.
    const bool good = std::fabs(got - expected) <= 2e-3 * scale;
    if (!good) std::printf("d %s: expected %g, got %g\n", name, expected, got);
    return good;
  }
};

bool same(const Floats& a, const Floats& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof(float));
}

bool check(Cell cell, long T, long B, long I, long H, bool reverse, bool special, long S = 0,
           long U = 0, long M = 0) {
  Case x(cell, T, B, I, H, reverse, special, S, U, M);
  x.run(1, true);
  const double expected = x.loss(), got = x.engine_loss();
  bool good = std::fabs(got - expected) <= 1e-5 * std::sqrt(static_cast<double>(T * B * H)) + 1e-5;
  if (!good) std::printf("values: expected %g, got %g\n", expected, got);
  good &= x.slope_agrees("xs", x.xs, x.dxs) & x.slope_agrees("w_ih", x.w_ih, x.dw_ih) &
          x.slope_agrees("w_hh", x.w_hh, x.dw_hh) & x.slope_agrees("b", x.b, x.db) &
          x.slope_agrees("h0", x.h0, x.dh0);
  if (cell == kGru) good &= x.slope_agrees("b_hn", x.b_hn, x.db_hn);
  if (cell == kLstm) good &= x.slope_agrees("c0", x.c0, x.dc0);
  if (special) good &= x.slope_agrees("h_reset", x.h_reset, x.dh_reset);
  if (special && cell == kLstm) good &= x.slope_agrees("c_reset", x.c_reset, x.dc_reset);
  if (S) {
    good &= x.slope_agrees("keys", x.keys, x.dkeys) &
            x.slope_agrees("values", x.values, x.dvalues) & x.slope_agrees("w_c", x.w_c, x.dw_c) &
            x.slope_agrees("w_q", x.w_q, x.dw_q()) & x.slope_agrees("v", x.v, x.dv) &
            x.slope_agrees("y0", x.y0, x.dy0);
  }
  Case y(cell, T, B, I, H, reverse, special, S, U, M);
  Case z(cell, T, B, I, H, reverse, special, S, U, M);
  y.run(3, true);
  z.run(2, false);
  const bool bits = same(x.ys, y.ys) && same(x.h, y.h) && same(x.dxs, y.dxs) &&
                    same(x.dw_ih, y.dw_ih) && same(x.dw_hh, y.dw_hh) && same(x.db, y.db) &&
                    same(x.dh0, y.dh0) && same(x.ys, z.ys) && same(x.h, z.h) &&
                    same(x.dkeys, y.dkeys) && same(x.dvalues, y.dvalues) && same(x.dv, y.dv) &&
                    same(x.dw_c, y.dw_c) && same(x.dy0, y.dy0) && same(x.weights, z.weights);
  if (!bits) std::printf("the bits depend on the number of threads\n");
  if (good && bits) return true;
  std::printf("  cell %d, T %ld B %ld I %ld H %ld reverse %d special %d S %ld U %ld M %ld\n", cell,
              T, B, I, H, reverse, special, S, U, M);
  return false;
}

#include "selftest_readout.h"

}  // namespace
}  // namespace seqjax

int main() {
  using namespace seqjax;
  bool good = true;
  for (Cell cell : {kLstm, kGru, kElmanTanh, kElmanRelu}) {
    for (bool special : {false, true}) {
      good &= check(cell, 7, 3, 5, 7, special, special);      // few rows: divided by units
      good &= check(cell, 5, 13, 17, 33, !special, special);  // divided by rows
      good &= check(cell, 12, 1, 3, 70, special, special);
    }
  }
  good &= check(kLstm, 2, 14, 4, 400, false, true);  // many units: divided by units
  // Decoders with attention. Relu is left out: with it, differences cross the kinks of many units.
  for (Cell cell : {kLstm, kGru, kElmanTanh}) {
    good &= check(cell, 5, 13, 6, 33, false, false, 4, 7, 9);
    good &= check(cell, 3, 2, 3, 16, true, false, 6, 70, 35);
  }
  good &= check(kLstm, 1, 1, 1, 400, false, false, 1, 1, 1);
  for (bool transposed : {false, true}) {
    for (bool masked : {false, true}) {
      good &= check_readout(7, 5, 3, transposed, masked, 0);
      good &= check_readout(1000, 21, 161, transposed, masked, 0.1f);
      good &= check_readout(131, 40, 530, transposed, masked, 0);
    }
  }
  good &= check_readout(1, 1, 1, false, false, 0);
  std::puts(good ? "the native engine is right" : "FAILED");
  return good ? 0 : 1;
}
