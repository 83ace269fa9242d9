// The cross entropy of a linear read-out, and its gradients in the same pass.
//
// For a position with hidden state h and label y, logits z = h W + b and C classes, with smoothing
// a:
//
//   nats = log sum_c exp z_c - (1 - a) z_y - a mean_c z_c
//   d_c = exp z_c / sum exp z - (1 - a) [c = y] - a / C
//   dh = d W^T      dW = sum over positions of h^T d      db = sum over positions of d
//
// The real positions are divided into blocks, and the classes into groups. The logits of a block
// stay in the cache until they have become the gradients d. Each group of classes has its own
// greatest logit, so that every exponential is computed once, right after its logit.
#pragma once

#include "layout.h"

namespace seqjax {
namespace SEQJAX_VARIANT {

constexpr long kGroup = 128 / kBlockLanes;  // panels of classes in a group
constexpr long kReach = 256 / kBlockLanes;  // panels of classes in one product for dh
// The most logits of a block. They are 16 MB; smaller blocks add to dW more often.
constexpr long kLogits = 1 << 22;

// Copies columns [j, j + n) of some rows to a panel, n <= kBlockLanes. Other columns become zero.
SEQJAX_INLINE void copy_panel(const float* from, long row, long rows, long j, long n, float* to) {
  for (long k = 0; k < rows; ++k) {
    for (long v = 0; v < kBlock; ++v) {
      const long lanes = n - v * kLanes;
      const float* at = from + k * row + j + v * kLanes;
      store(to + k * kBlockLanes + v * kLanes, lanes > 0 ? load(at, lanes) : Vec{});
    }
  }
}

// Copies rows [i, i + n) to a panel [columns][kBlockLanes], n <= kBlockLanes. Other rows become 0.
static void transpose_panel(const float* from, long row, long i, long n, long columns, float* to) {
  for (long k0 = 0; k0 < columns; k0 += kBlockLanes) {
    const long k1 = least(k0 + kBlockLanes, columns);
    for (long j = 0; j < kBlockLanes; ++j) {
      const float* at = from + (i + j) * row;
      for (long k = k0; k < k1; ++k) to[k * kBlockLanes + j] = j < n ? at[k] : 0.0f;
    }
  }
}

SEQJAX_INLINE float greatest(Vec v) {
  float m = v[0];
  for (int l = 1; l < kLanes; ++l) m = v[l] > m ? v[l] : m;
  return m;
}
SEQJAX_INLINE float total_of(Vec v) {
  float sum = v[0];
  for (int l = 1; l < kLanes; ++l) sum += v[l];
  return sum;
}

// The pieces of work that a member takes from a list. All members count the same pieces.
class Pieces {
 public:
  Pieces(Team& team, Team::List list) : team_(team), list_(list), next_(team.claim(list)) {}
  template <class Use>
  void each(long pieces, Use use) {
    for (; next_ < done_ + pieces; next_ = team_.claim(list_)) use(next_ - done_);
    done_ += pieces;
  }

 private:
  Team& team_;
  Team::List list_;
  long next_, done_ = 0;
};

struct ReadoutLoop {
  static constexpr long kColumns = kBlockLanes;
  const Readout& x;
  bool slopes;       // whether any gradient is wanted
  long P, Q, F;      // panels of classes, groups of classes, panels of features
  long size, width;  // the most positions of a block; groups in a row of `top`
  int* order;        // [N]: the real positions
  int* labels;       // [size]
  float* count;      // the number of real positions, an int
  float* other;      // the transposed panels of the kernel: [F][C][columns] or [P][H][columns]
  float* rows;       // [size][H]: the hidden states of a block
  float* columns;    // [F][size][columns]: the same in panels
  float* z;          // logits, exponentials, and their gradients: [P][size][columns]
  float* own;        // [workers][...]: a panel of the kernel and, without gradients, logits
  long own_size;
  float *top, *sum,
      *part_of;            // [size][width]: of each group max z, sum exp(z - max), sum (z - max)
  float *of_label, *tied;  // [size]
  float* dh;               // [F][size][columns]

  ReadoutLoop(const Readout& x, int workers, Scratch& scratch) : x(x) {
    slopes = x.dhidden || x.dkernel || x.dbias;
    P = blocks_of(x.C, kColumns);
    Q = blocks_of(P, kGroup);
    F = blocks_of(x.H, kColumns);
    size = least(x.N, most(128, least(512, kLogits / x.C)));
    width = blocks_of(Q, kLanes) * kLanes;
    order = reinterpret_cast<int*>(scratch.take(x.N));
    labels = reinterpret_cast<int*>(scratch.take(size));
    count = scratch.take(1);
    other = scratch.take(x.transposed ? P * x.H * kColumns
                         : x.dhidden  ? F * P * kColumns * kColumns
                                      : 0);
    rows = scratch.take(size * x.H);
    columns = scratch.take(x.dkernel ? F * size * kColumns : 0);
    z = scratch.take(slopes ? P * size * kColumns : 0);
    own_size = (most(x.H, kReach * kColumns) + (slopes ? 0 : kGroup * size)) * kColumns;
    own = scratch.take(workers * own_size);
    top = scratch.take(size * width);
    sum = scratch.take(size * width);
    part_of = scratch.take(x.smoothing > 0 ? size * width : 0);
    of_label = scratch.take(size);
    tied = scratch.take(size);
    dh = scratch.take(x.dhidden ? F * size * kColumns : 0);
  }

  void work(Team& team, int id) const {
    const int members = team.size();
    const auto my = [&](long n) { return part(n, id, members); };
    const auto next = [&](long n) { return part(n, id + 1, members); };
    if (id == 0) find_real();
    prepare(my(x.N), next(x.N));
    pack(my(x.transposed ? P : F), next(x.transposed ? P : F));
    team.barrier();
    const long real = *reinterpret_cast<int*>(count), blocks = most(1, blocks_of(real, size));
    Pieces groups(team, Team::kInputs), gradients(team, Team::kWeights), shares(team, Team::kRows);
    for (long i = 0; i < blocks; ++i) {
      const long first = part(real, i, blocks), n = part(real, i + 1, blocks) - first;
      gather(first, n, my(n), next(n));
      team.barrier();
      groups.each(Q, [&](long q) { scores(q, n, own + id * own_size); });
      team.barrier();
      for (long r = my(n); r < next(n); ++r) finish(first, r);
      team.barrier();
      if (!slopes) continue;
      gradients.each(Q, [&](long q) { gradient(q, n, i == 0); });
      team.barrier();
      if (!x.dhidden) continue;
      const long pieces = members == 1 ? 1 : 4 * members;
      shares.each(pieces, [&](long k) {
        hidden(first, n, part(n, k, pieces), part(n, k + 1, pieces), own + id * own_size);
      });
    }
  }

  void find_real() const {
    int n = 0;
    for (long r = 0; r < x.N; ++r) {
      if (x.real[r]) order[n++] = static_cast<int>(r);
    }
    *reinterpret_cast<int*>(count) = n;
  }

  // Sets the results of the positions that are not real.
  void prepare(long begin, long end) const {
    for (long r = begin; r < end; ++r) {
      if (x.real[r]) continue;
      x.nats[r] = x.hits[r] = 0;
      for (long j = 0; x.dhidden && j < x.H; ++j) x.dhidden[r * x.H + j] = 0;
    }
  }

  void pack(long begin, long end) const {
    for (long i = begin; i < end && x.transposed; ++i) {
      const long c = i * kColumns;
      transpose_panel(x.kernel, x.H, c, least(kColumns, x.C - c), x.H, other + c * x.H);
    }
    for (long i = begin; i < end && !x.transposed && x.dhidden; ++i) {
      const long j = i * kColumns;
      float* to = other + i * P * kColumns * kColumns;
      transpose_panel(x.kernel, x.C, j, least(kColumns, x.H - j), x.C, to);
      for (long k = x.C * kColumns; k < P * kColumns * kColumns; ++k) to[k] = 0;
    }
  }

  // Gathers hidden states and labels of positions first + [begin, end) of the real positions.
  void gather(long first, long n, long begin, long end) const {
    for (long r = begin; r < end; ++r) {
      const long at = order[first + r];
      const float* h = x.hidden + at * x.H;
      __builtin_memcpy(rows + r * x.H, h, x.H * sizeof(float));
      labels[r] = x.labels[at];
      for (long f = 0; x.dkernel && f < F; ++f) {
        copy_panel(h, 0, 1, f * kColumns, x.H - f * kColumns, columns + (f * n + r) * kColumns);
      }
    }
  }

  // Computes the logits z of a group of classes, and turns them into exp(z - max).
  void scores(long q, long n, float* own) const {
    const long p0 = q * kGroup, p1 = least(p0 + kGroup, P);
    float* logits = slopes ? z + p0 * n * kColumns : own + most(x.H, kReach * kColumns) * kColumns;
    for (long p = p0; p < p1; ++p) {
      const long c = p * kColumns, valid = x.C - c;
      float bias[kColumns];
      for (long j = 0; j < kColumns; ++j) {
        bias[j] = j < valid ? x.bias ? x.bias[c + j] : 0.0f : -__builtin_inff();
      }
      if (!x.transposed) copy_panel(x.kernel, x.C, x.H, c, valid, own);
      const Product product{rows, x.H,  0, x.transposed ? other + c * x.H : own, kColumns, 1,
                            x.H,  bias, 0, logits + (p - p0) * n * kColumns,     kColumns};
      multiply<kBlock>(product, 0, n, [](long, int) {});
    }
    for (long r = 0; r < n; ++r) exponentials(q, p0, p1 - p0, n, r, logits + r * kColumns);
  }

  // One row of `scores`.
  void exponentials(long q, long p0, long count, long n, long r, float* z) const {
    const long stride = n * kColumns, begin = p0 * kColumns;
    Vec m = broadcast(-__builtin_inff());
    for (long p = 0; p < count; ++p) {
      for (long v = 0; v < kBlock; ++v) {
        const Vec value = load(z + p * stride + v * kLanes);
        m = value > m ? value : m;
      }
    }
    const float best = greatest(m), shift = best == -__builtin_inff() ? 0.0f : best;
    const long y = labels[r] - begin;
    if (0 <= y && y < count * kColumns) {
      const float mine = z[y / kColumns * stride + y % kColumns];
      bool seen = false;
      for (long c = 0; c < y && mine >= best; ++c) {
        seen |= z[c / kColumns * stride + c % kColumns] >= mine;
      }
      of_label[r] = mine;
      tied[r] = seen;
    }
    if (x.smoothing > 0) {
      Vec all{};
      for (long p = 0; p < count; ++p) {
        for (long v = 0; v < kBlock; ++v) {
          const long lanes = x.C - begin - p * kColumns - v * kLanes;
          if (lanes > 0) all += first(load(z + p * stride + v * kLanes) - shift, lanes);
        }
      }
      part_of[r * width + q] = total_of(all);
    }
    Vec total{};
    for (long p = 0; p < count; ++p) {
      for (long v = 0; v < kBlock; ++v) {
        float* at = z + p * stride + v * kLanes;
        const Vec e = exp(load(at) - shift);
        total += e;
        store(at, e);
      }
    }
    top[r * width + q] = best;
    sum[r * width + q] = total_of(total);
  }

  // Combines the groups of a row: its scores, and the factors of its exponentials in `top`.
  void finish(long first, long r) const {
    float *tops = top + r * width, *sums = sum + r * width;
    for (long q = Q; q < width; ++q) {
      tops[q] = -__builtin_inff();
      sums[q] = 0;
    }
    Vec most_of = broadcast(-__builtin_inff());
    for (long q = 0; q < width; q += kLanes) {
      const Vec m = load(tops + q);
      most_of = m > most_of ? m : most_of;
    }
    const float m = greatest(most_of), mine = of_label[r];
    const long group = labels[r] / (kGroup * kColumns);
    bool hit = mine >= m && tied[r] == 0;
    for (long q = 0; q < group && hit; ++q) hit = tops[q] < mine;
    Vec total{};
    for (long q = 0; q < width; q += kLanes) {
      const Vec factor = exp(load(tops + q) - m);
      total += factor * load(sums + q);
    }
    const float sum = total_of(total), log_sum = __builtin_logf(sum);
    float nats = log_sum - (mine - m);
    if (x.smoothing > 0) {
      float mean = 0;  // of z - m
      for (long q = 0; q < Q; ++q) {
        const long classes = least(kGroup * kColumns, x.C - q * kGroup * kColumns);
        const float shift = tops[q] == -__builtin_inff() ? 0.0f : tops[q];
        mean += part_of[r * width + q] + static_cast<float>(classes) * (shift - m);
      }
      nats = (1 - x.smoothing) * nats + x.smoothing * (log_sum - mean / static_cast<float>(x.C));
    }
    if (!slopes) return put(first, r, nats, hit);
    for (long q = 0; q < width; q += kLanes) {
      store(tops + q, exp(load(tops + q) - m) * (*x.scale / sum));
    }
    put(first, r, nats, hit);
  }

  void put(long first, long r, float nats, bool hit) const {
    const long at = order[first + r];
    x.nats[at] = nats;
    x.hits[at] = nats == nats ? hit : nats;
  }

  // Turns the exponentials of a group into d, and adds to the gradients of kernel and bias.
  void gradient(long q, long n, bool is_first) const {
    const long p0 = q * kGroup, p1 = least(p0 + kGroup, P);
    const float smoothed = *x.scale * x.smoothing / static_cast<float>(x.C);
    const float of_class = *x.scale * (1 - x.smoothing);
    for (long p = p0; p < p1; ++p) {
      float* d = z + p * n * kColumns;
      const long c = p * kColumns, valid = least(kColumns, x.C - c);
      Vec sums[kBlock] = {};
      for (long r = 0; r < n; ++r) {
        const float factor = top[r * width + q];
        for (long v = 0; v < kBlock; ++v) {
          float* at = d + r * kColumns + v * kLanes;
          store(at, load(at) * factor - smoothed);
        }
        const long y = labels[r] - c;
        if (0 <= y && y < kColumns) d[r * kColumns + y] -= of_class;
        for (long v = 0; v < kBlock; ++v) sums[v] += load(d + r * kColumns + v * kLanes);
      }
      for (long v = 0; x.dbias && v * kLanes < valid; ++v) {
        float* to = x.dbias + c + v * kLanes;
        const long lanes = valid - v * kLanes;
        store(to, is_first ? sums[v] : sums[v] + load(to, lanes), lanes);
      }
      for (long f = 0; x.dkernel && f < F; ++f) {
        const float* h = columns + f * n * kColumns;
        const long j = f * kColumns, features = least(kColumns, x.H - j);
        if (x.transposed) {
          outer(d, valid, h, features, n, is_first, x.dkernel + c * x.H + j, x.H);
        } else {
          outer(h, features, d, valid, n, is_first, x.dkernel + j * x.C + c, x.C);
        }
      }
    }
  }

  // out[i, j] (+)= sum over n of a[n, i] b[n, j], for panels a and b.
  static void outer(const float* a, long a_valid, const float* b, long b_valid, long n,
                    bool is_first, float* out, long row) {
    static const float zeros[kColumns] = {};
    constexpr int kMost = rows_of_tile(kBlock);
    const long tiles = blocks_of(a_valid, kMost);
    float whole[kMost * kColumns];
    for (long i = 0; i < tiles; ++i) {
      const long r0 = part(a_valid, i, tiles), r1 = part(a_valid, i + 1, tiles);
      float* to = out + r0 * row;
      const bool partial = b_valid < kColumns;
      if (partial && !is_first) copy_panel(to, row, r1 - r0, 0, b_valid, whole);
      float* at = partial ? whole : to;
      const long at_row = partial ? kColumns : row;
      const Product product{
          a + r0, 0,     0, b, kColumns, 1, n, is_first ? zeros : at, is_first ? 0 : at_row,
          at,     at_row};
      tile_of<kBlock, kMost, kColumns>(static_cast<int>(r1 - r0), product, 0);
      for (long r = 0; partial && r < r1 - r0; ++r) {
        for (long v = 0; v * kLanes < b_valid; ++v) {
          store(to + r * row + v * kLanes, load(whole + r * kColumns + v * kLanes),
                b_valid - v * kLanes);
        }
      }
    }
  }

  // dh = d W^T for rows [r0, r1) of a block.
  void hidden(long first, long n, long r0, long r1, float* own) const {
    static const float zeros[kColumns] = {};
    for (long p = 0; p < P; p += kReach) {
      const long panels = least(kReach, P - p), c = p * kColumns;
      const long classes = least(panels * kColumns, x.C - c);
      for (long f = 0; f < F; ++f) {
        const long j = f * kColumns, features = x.H - j;
        const float* b = other + (f * P + p) * kColumns * kColumns;
        if (x.transposed) {
          copy_panel(x.kernel + c * x.H, x.H, classes, j, features, own);
          for (long k = classes * kColumns; k < panels * kColumns * kColumns; ++k) own[k] = 0;
          b = own;
        }
        float* to = dh + f * n * kColumns;
        const Product product{z + p * n * kColumns,
                              kColumns,
                              n * kColumns,
                              b,
                              kColumns,
                              panels,
                              kColumns,
                              p ? to : zeros,
                              p ? kColumns : 0,
                              to,
                              kColumns};
        if (features > kLanes) {
          multiply<kBlock>(product, r0, r1, [](long, int) {});
        } else {
          multiply<1>(product, r0, r1, [](long, int) {});
        }
      }
    }
    for (long r = r0; r < r1; ++r) {
      float* to = x.dhidden + order[first + r] * x.H;
      for (long j = 0; j < x.H; j += kLanes) {
        const float* from = dh + (j / kColumns * n + r) * kColumns + j % kColumns;
        store(to + j, load(from), x.H - j);
      }
    }
  }
};

}  // namespace SEQJAX_VARIANT
}  // namespace seqjax
