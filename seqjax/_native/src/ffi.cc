// The two custom calls of XLA that run the engine, and the choice of the build for this processor.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include <sys/mman.h>

#include "engine.h"
#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace seqjax {

#if defined(SEQJAX_HAS_AVX512)
namespace avx512 { extern const Engine engine; }
#endif
#if defined(SEQJAX_HAS_AVX2)
namespace avx2 { extern const Engine engine; }
#endif
#if defined(SEQJAX_HAS_BASELINE)
namespace baseline { extern const Engine engine; }
#endif

namespace {

// The widest build that this processor supports; null if there is none.
const Engine* engine() {
#if defined(SEQJAX_HAS_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma")) {
    return &avx512::engine;
  }
#endif
#if defined(SEQJAX_HAS_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2::engine;
#endif
#if defined(SEQJAX_HAS_BASELINE)
  return &baseline::engine;
#endif
  return nullptr;
}

constexpr size_t kHugePage = 2 << 20;

std::atomic<int> most_threads{1 << 16};

// Asks the system for large pages in XLA's buffers. The system clears each new page at its first
// use, and clearing ten thousand small pages takes longer than the products of an LSTM of medium
// size.
void expect_huge_pages(void* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Scratch memory that is reused by later calls, so that the system need not clear new pages.
class Memory {
 public:
  explicit Memory(size_t floats) {
    const size_t page = floats * sizeof(float) < kHugePage ? 4096 : kHugePage;
    size_ = (std::max<size_t>(floats, 1) * sizeof(float) + page - 1) / page * page;
    const std::lock_guard<std::mutex> guard(mutex());
    auto best = kept().end();
    for (auto it = kept().begin(); it != kept().end(); ++it) {
      const bool fits = it->size >= size_ && it->size <= 2 * size_ + kHugePage;
      if (fits && (best == kept().end() || it->size < best->size)) best = it;
    }
    if (best != kept().end()) {
      data_ = best->data;
      size_ = best->size;
      kept().erase(best);
      return;
    }
    data_ = static_cast<float*>(std::aligned_alloc(page, size_));
#if defined(MADV_HUGEPAGE)
    if (data_ && page == kHugePage) madvise(data_, size_, MADV_HUGEPAGE);
#endif
  }
  ~Memory() {
    if (!data_) return;
    const std::lock_guard<std::mutex> guard(mutex());
    kept().push_back({data_, size_});
    size_t all = 0;
    for (const Block& block : kept()) all += block.size;
    while (kept().size() > kBlocks || all > kAll) {  // the oldest first
      all -= kept().front().size;
      std::free(kept().front().data);
      kept().erase(kept().begin());
    }
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  float* data() const { return data_; }

 private:
  struct Block {
    float* data;
    size_t size;
  };
  static constexpr size_t kAll = size_t{256} << 20, kBlocks = 16;
  // Never destroyed, since a call may end after the destructors of static objects have started.
  static std::vector<Block>& kept() {
    static auto* blocks = new std::vector<Block>;
    return *blocks;
  }
  static std::mutex& mutex() {
    static auto* lock = new std::mutex;
    return *lock;
  }

  float* data_ = nullptr;
  size_t size_ = 0;
};

// Reads the buffers of a call, one after another. An absent buffer is a null pointer.
class Reader {
 public:
  Reader(ffi::RemainingArgs args, ffi::RemainingRets results) : args_(args), results_(results) {}

  template <class T = float>
  const T* operand(bool present = true) {
    if (!present) return nullptr;
    auto buffer = args_.get<ffi::AnyBuffer>(next_++);
    if (!buffer.has_value()) {
      failed_ = true;
      return nullptr;
    }
    shape_.assign(buffer->dimensions().begin(), buffer->dimensions().end());
    return static_cast<const T*>(buffer->untyped_data());
  }
  float* result(bool present = true) {
    if (!present) return nullptr;
    auto buffer = results_.get<ffi::AnyBuffer>(next_result_++);
    if (!buffer.has_value()) {
      failed_ = true;
      return nullptr;
    }
    expect_huge_pages((*buffer)->untyped_data(), (*buffer)->size_bytes());
    return static_cast<float*>((*buffer)->untyped_data());
  }
  const std::vector<long>& shape() const { return shape_; }  // of the last operand
  ffi::Error status() const {
    if (!failed_ && next_ == args_.size() && next_result_ == results_.size()) {
      return ffi::Error::Success();
    }
    return ffi::Error::InvalidArgument("seqjax: a custom call with a wrong number of buffers");
  }

 private:
  ffi::RemainingArgs args_;
  ffi::RemainingRets results_;
  size_t next_ = 0, next_result_ = 0;
  bool failed_ = false;
  std::vector<long> shape_;
};

// The bits that mark present operands, in the order of OPERANDS in seqjax/kernels/_engine_forms.py.
enum Operand {
  kXs,
  kH0,
  kC0,
  kWih,
  kWhh,
  kB,
  kBhn,
  kMask,
  kResets,
  kHReset,
  kCReset,
  kNoise,
  kHoldH,
  kHoldC,
  kKeys,
  kValues,
  kPositions,
  kWc,
  kWq,
  kV,
  kY0,
};
bool has(int32_t bits, Operand operand) { return bits >> operand & 1; }

void read_problem(Reader& from, int32_t present, int32_t cell, bool reverse, Problem& x) {
  x.cell = static_cast<Cell>(cell);
  x.reverse = reverse;
  x.xs = from.operand();
  x.T = from.shape()[0];
  x.B = from.shape()[1];
  x.I = from.shape()[2];
  x.h0 = from.operand();
  x.H = from.shape()[1];
  x.c0 = from.operand(has(present, kC0));
  x.w_ih = from.operand();
  x.w_hh = from.operand();
  x.b = from.operand(has(present, kB));
  x.b_hn = from.operand(has(present, kBhn));
  x.mask = from.operand<uint8_t>(has(present, kMask));
  x.resets = from.operand<uint8_t>(has(present, kResets));
  x.h_reset = from.operand(has(present, kHReset));
  x.c_reset = from.operand(has(present, kCReset));
  x.noise = from.operand(has(present, kNoise));
  x.hold_h = from.operand(has(present, kHoldH));
  x.hold_c = from.operand(has(present, kHoldC));
  x.keys = from.operand(has(present, kKeys));
  if (!x.keys) return;
  x.S = from.shape()[1];
  x.U = from.shape()[2];
  x.values = from.operand();
  x.M = from.shape()[2];
  x.positions = from.operand<uint8_t>();
  x.w_c = from.operand();
  x.w_q = from.operand();
  x.v = from.operand();
  x.y0 = from.operand();
}

// A call and its scratch memory. A late helper accesses only the team, not the job.
template <class Call>
struct Job {
  const Call& call;
  void (*run)(const Call&, float*, Team&, int);
  float* memory;
  static void work(void* data, Team& team, int id) {
    const Job& job = *static_cast<Job*>(data);
    job.run(job.call, job.memory, team, id);
  }
};

// Runs a call. `threads_of(most)` is the number of threads, at most `most`.
template <class Call, class ThreadsOf>
ffi::Error perform(const Call& call, long (*scratch)(const Call&, int),
                   void (*run)(const Call&, float*, Team&, int), ffi::ThreadPool& pool,
                   double operations, ThreadsOf threads_of) {
  // Waking a thread pays off if it has at least about 10 microseconds of work.
  const long worth = static_cast<long>(std::min(operations / 1e6, 1024.0));
  const long most = std::min<long>(pool.num_threads(), most_threads.load());
  const int threads = static_cast<int>(std::max(1L, threads_of(std::min(worth, most))));
  const Memory memory(scratch(call, threads));
  if (!memory.data()) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "seqjax: no memory");
  Job<Call> job{call, run, memory.data()};
  const auto team = std::make_shared<Team>(Job<Call>::work, &job);
  for (int i = 1; i < threads; ++i) pool.Schedule([team] { team->help(); });
  // Waking a sleeping thread takes about 50 microseconds. For a long call the leader waits longer,
  // up to a sixteenth of the estimated time of the call.
  const double patience = operations / 5e4 / 16;
  team->lead(threads - 1, static_cast<long>(std::max(60.0, std::min(patience, 1000.0))));
  return ffi::Error::Success();
}

template <class Call>
ffi::Error perform_loop(const Call& call, long (*scratch)(const Call&, int),
                        void (*run)(const Call&, float*, Team&, int), ffi::ThreadPool& pool) {
  // Each thread needs 64 rows of all steps or a group of units: products outside of the loop divide
  // any rows.
  const int gates = call.cell == kLstm ? 4 : call.cell == kGru ? 3 : 1;
  // A tanh of the attention takes as long as about 20 operations of a product.
  const double products = 2.0 * gates * call.H * (call.I + call.M + call.H) + 2.0 * call.H * call.U;
  const double attention = call.S * (20.0 * call.U + 2.0 * call.M);
  const double operations = call.T * call.B * (products + attention);
  const long width = 4 * engine()->lanes, groups = (call.H + width - 1) / width;
  // The members of an attention divide the rows of the batch.
  const long shares = call.keys ? call.B / 4 : std::max(call.T * call.B / 64, groups);
  return perform(call, scratch, run, pool, operations, [&](long most) {
    const long threads = std::min(shares, most);
    const bool alone = divides_units(call, groups, threads) && Team::idle_of_late();
    return alone ? 1L : threads;
  });
}

ffi::Error forward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets results,
                   int32_t cell, int32_t present, bool reverse, bool store) {
  Reader from(args, results);
  Forward f{};
  read_problem(from, present, cell, reverse, f);
  f.ys = from.result();
  f.h = from.result();
  f.c = from.result(f.c0);
  f.contexts = from.result(f.keys);
  f.weights = from.result(f.keys);
  f.gates = from.result(store);
  f.cs = from.result(store && f.c0);
  f.hs = from.result(store && f.mask);
  f.queries = from.result(store && f.keys);
  if (ffi::Error error = from.status(); error.failure()) return error;
  return perform_loop(f, engine()->forward_scratch, engine()->forward, pool);
}

ffi::Error backward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets results,
                    int32_t cell, int32_t present, bool reverse, int32_t wanted) {
  Reader from(args, results);
  Backward f{};
  read_problem(from, present, cell, reverse, f);
  f.gates = from.operand();
  f.cs = from.operand(f.c0);
  f.hs = from.operand();
  f.queries = from.operand(f.keys);
  f.contexts = from.operand(f.keys);
  f.weights = from.operand(f.keys);
  f.dys = from.operand();
  f.dh = from.operand();
  f.dc = from.operand(f.c0);
  f.dcontexts = from.operand(f.keys);
  f.dweights = from.operand(f.keys);
  f.dxs = from.result(has(wanted, kXs));
  f.dh0 = from.result(has(wanted, kH0));
  f.dc0 = from.result(has(wanted, kC0));
  f.dw_ih = from.result(has(wanted, kWih));
  f.dw_hh = from.result(has(wanted, kWhh));
  f.db = from.result(has(wanted, kB));
  f.db_hn = from.result(has(wanted, kBhn));
  f.dh_reset = from.result(has(wanted, kHReset));
  f.dc_reset = from.result(has(wanted, kCReset));
  f.dkeys = from.result(has(wanted, kKeys));
  f.dvalues = from.result(has(wanted, kValues));
  f.dw_c = from.result(has(wanted, kWc));
  f.dqueries = from.result(has(wanted, kWq));
  f.dv = from.result(has(wanted, kV));
  f.dy0 = from.result(has(wanted, kY0));
  if (ffi::Error error = from.status(); error.failure()) return error;
  return perform_loop(f, engine()->backward_scratch, engine()->backward, pool);
}

ffi::Error readout(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets results,
                   float smoothing, bool transposed, bool biased, int32_t wanted) {
  Reader from(args, results);
  Readout x{};
  x.smoothing = smoothing;
  x.transposed = transposed;
  x.kernel = from.operand();
  x.C = from.shape()[transposed ? 0 : 1];
  x.bias = from.operand(biased);
  x.hidden = from.operand();
  x.N = from.shape()[0];
  x.H = from.shape()[1];
  x.labels = from.operand<int32_t>();
  x.real = from.operand<uint8_t>();
  x.scale = from.operand(wanted);
  x.nats = from.result();
  x.hits = from.result();
  x.dkernel = from.result(wanted & 1);
  x.dbias = from.result(wanted & 2);
  x.dhidden = from.result(wanted & 4);
  if (ffi::Error error = from.status(); error.failure()) return error;
  const double operations = (wanted ? 6.0 : 2.0) * x.N * x.H * x.C;
  return perform(x, engine()->readout_scratch, engine()->readout, pool, operations,
                 [&](long most) { return std::min(most, x.C / 256); });
}

}  // namespace

#define SEQJAX_EXPORT extern "C" __attribute__((visibility("default")))

// The number of floats in a vector of the chosen build; 0 if there is no build for this processor.
SEQJAX_EXPORT int seqjax_lanes() { return engine() ? static_cast<int>(engine()->lanes) : 0; }
SEQJAX_EXPORT void seqjax_limit_threads(int most) { most_threads = std::max(1, most); }

XLA_FFI_DEFINE_HANDLER(forward_handler, forward,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .RemainingArgs()
                           .RemainingRets()
                           .Attr<int32_t>("cell")
                           .Attr<int32_t>("present")
                           .Attr<bool>("reverse")
                           .Attr<bool>("store"));
XLA_FFI_DEFINE_HANDLER(backward_handler, backward,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .RemainingArgs()
                           .RemainingRets()
                           .Attr<int32_t>("cell")
                           .Attr<int32_t>("present")
                           .Attr<bool>("reverse")
                           .Attr<int32_t>("wanted"));

XLA_FFI_DEFINE_HANDLER(readout_handler, readout,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .RemainingArgs()
                           .RemainingRets()
                           .Attr<float>("smoothing")
                           .Attr<bool>("transposed")
                           .Attr<bool>("biased")
                           .Attr<int32_t>("wanted"));

SEQJAX_EXPORT XLA_FFI_Error* seqjax_forward(XLA_FFI_CallFrame* frame) {
  return forward_handler(frame);
}
SEQJAX_EXPORT XLA_FFI_Error* seqjax_backward(XLA_FFI_CallFrame* frame) {
  return backward_handler(frame);
}
SEQJAX_EXPORT XLA_FFI_Error* seqjax_readout(XLA_FFI_CallFrame* frame) {
  return readout_handler(frame);
}

}  // namespace seqjax
