// The test of the cross entropy of a linear read-out; a part of selftest.cc.

struct ReadoutCase {
  long N, H, C;
  bool transposed, masked;
  float smoothing, scale = 0.25f;
  Floats hidden, kernel, bias, nats, hits, dhidden, dkernel, dbias;
  std::vector<int32_t> labels;
  std::vector<uint8_t> real;

  ReadoutCase(long N, long H, long C, bool transposed, bool masked, float smoothing)
      : N(N), H(H), C(C), transposed(transposed), masked(masked), smoothing(smoothing) {
    Random random;
    hidden = random.floats(N * H);
    kernel = random.floats(H * C);
    bias = random.floats(C);
    labels.resize(N);
    for (int32_t& y : labels) y = static_cast<int32_t>(random.next() % C);
    real = random.bits(N, masked ? 0.6 : 2);
    // Equal logits: the first of them counts.
    for (long c : {C / 3, C - 1}) bias[c] = 100;
    for (long j = 0; j < H; ++j) at(kernel, j, C - 1) = at(kernel, j, C / 3);
    for (long r = 0; r < N; r += 3) labels[r] = static_cast<int32_t>(r % 2 ? C / 3 : C - 1);
    for (long r = 0; r < N; ++r) {
      for (long j = 0; j < H && !real[r]; ++j) hidden[r * H + j] = NAN;
    }
  }

  float& at(Floats& matrix, long j, long c) const {
    return matrix[transposed ? c * H + j : j * C + c];
  }

  void run(int threads, bool slopes) {
    for (Floats* v : {&nats, &hits}) v->assign(N, NAN);
    dhidden.assign(N * H, NAN);
    dkernel.assign(H * C, NAN);
    dbias.assign(C, NAN);
    Readout x{};
    x.N = N;
    x.H = H;
    x.C = C;
    x.transposed = transposed;
    x.smoothing = smoothing;
    x.hidden = hidden.data();
    x.kernel = kernel.data();
    x.bias = bias.data();
    x.labels = labels.data();
    x.real = real.data();
    x.nats = nats.data();
    x.hits = hits.data();
    if (slopes) {
      x.scale = &scale;
      x.dhidden = dhidden.data();
      x.dkernel = dkernel.data();
      x.dbias = dbias.data();
    }
    const Engine& engine = SEQJAX_VARIANT::engine;
    Case::perform(x, engine.readout_scratch, engine.readout, threads);
  }

  bool right() {
    std::vector<double> of_hidden(N * H), of_kernel(H * C), of_bias(C), z(C);
    bool good = true;
    for (long r = 0; r < N; ++r) {
      double most = -1e300, sum = 0, mean = 0;
      for (long c = 0; c < C && real[r]; ++c) {
        z[c] = bias[c];
        for (long j = 0; j < H; ++j) z[c] += double(hidden[r * H + j]) * at(kernel, j, c);
        most = std::fmax(most, z[c]);
      }
      for (long c = 0; c < C && real[r]; ++c) {
        sum += std::exp(z[c] - most);
        mean += (z[c] - most) / C;
      }
      const long y = labels[r];
      const double log_sum = std::log(sum);
      const double entropy =
          (1 - smoothing) * (log_sum - (z[y] - most)) + smoothing * (log_sum - mean);
      good &= close(nats[r], real[r] ? entropy : 0, "nats");
      good &= close(hits[r], real[r] && y == C / 3, "hits");
      for (long c = 0; c < C && real[r]; ++c) {
        const double d = std::exp(z[c] - most) / sum - (1 - smoothing) * (c == y) - smoothing / C;
        of_bias[c] += scale * d;
        for (long j = 0; j < H; ++j) {
          of_hidden[r * H + j] += scale * d * at(kernel, j, c);
          of_kernel[transposed ? c * H + j : j * C + c] += scale * d * hidden[r * H + j];
        }
      }
    }
    for (long i = 0; i < N * H; ++i) good &= close(dhidden[i], of_hidden[i], "dhidden");
    for (long i = 0; i < H * C; ++i) good &= close(dkernel[i], of_kernel[i], "dkernel");
    for (long i = 0; i < C; ++i) good &= close(dbias[i], of_bias[i], "dbias");
    return good;
  }

  static bool close(float got, double expected, const char* name) {
    const bool good = std::fabs(got - expected) <= 1e-5 + 1e-5 * std::fabs(expected);
    if (!good) std::printf("%s: expected %g, got %g\n", name, expected, got);
    return good;
  }
};

bool check_readout(long N, long H, long C, bool transposed, bool masked, float smoothing) {
  ReadoutCase x(N, H, C, transposed, masked, smoothing);
  ReadoutCase y = x, z = x;
  x.run(1, true);
  y.run(3, true);
  z.run(2, false);
  const bool bits = same(x.nats, y.nats) && same(x.hits, y.hits) && same(x.dhidden, y.dhidden) &&
                    same(x.dkernel, y.dkernel) && same(x.dbias, y.dbias) && same(x.nats, z.nats) &&
                    same(x.hits, z.hits);
  if (!bits) std::printf("the bits depend on the number of threads or the gradients\n");
  if (bits && x.right()) return true;
  std::printf("  read-out, N %ld H %ld C %ld transposed %d masked %d smoothing %g\n", N, H, C,
              transposed, masked, smoothing);
  return false;
}
