// The engine as two custom calls of XLA, and the choice of its build for this processor.
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

// The widest build that this processor runs; null if there is none.
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

std::atomic<int> most_threads{1 << 16};

// Memory that is kept between calls, so that the system need not clear it anew for each.
class Memory {
 public:
  explicit Memory(size_t floats) {
    const size_t page = floats * sizeof(float) < kHuge ? 4096 : kHuge;
    size_ = (std::max<size_t>(floats, 1) * sizeof(float) + page - 1) / page * page;
    const std::lock_guard<std::mutex> guard(mutex());
    auto best = kept().end();
    for (auto it = kept().begin(); it != kept().end(); ++it) {
      const bool fits = it->size >= size_ && it->size <= 2 * size_ + kHuge;
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
    if (data_ && page == kHuge) madvise(data_, size_, MADV_HUGEPAGE);
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
  static constexpr size_t kHuge = 2 << 20, kAll = size_t{256} << 20, kBlocks = 16;
  // Never destroyed: a call may end after the destructors of static objects have begun.
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

// The buffers of a call one after the other; null for those that are absent.
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

// The bits of what is present, in the order of OPERANDS in seqjax/kernels/_native.py.
enum Operand {
  kXs, kH0, kC0, kWih, kWhh, kB, kBhn, kMask, kResets, kHReset, kCReset, kNoise, kHoldH, kHoldC,
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
}

// A call and the memory it works in. Helpers that come too late find only the team.
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

template <class Call>
ffi::Error perform(const Call& call, long (*scratch)(const Call&, int),
                   void (*run)(const Call&, float*, Team&, int), ffi::ThreadPool& pool) {
  // A thread is worth its waking from about 10 microseconds of work on, and needs four rows of the
  // batch or a group of units.
  const int gates = call.cell == kLstm ? 4 : call.cell == kGru ? 3 : 1;
  const double operations = 2.0 * call.T * call.B * gates * call.H * (call.I + call.H);
  const long worth = static_cast<long>(std::min(operations / 1e6, 1024.0));
  const long width = 4 * engine()->lanes, groups = (call.H + width - 1) / width;
  const long shares = std::max(call.B / 4, groups);
  const long most = std::min<long>(pool.num_threads(), most_threads.load());
  int threads = static_cast<int>(std::max(1L, std::min({worth, shares, most})));
  if (divides_units(call, groups, threads) && Team::late_of_late()) threads = 1;
  const Memory memory(scratch(call, threads));
  if (!memory.data()) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "seqjax: no memory");
  Job<Call> job{call, run, memory.data()};
  const auto team = std::make_shared<Team>(Job<Call>::work, &job);
  for (int i = 1; i < threads; ++i) pool.Schedule([team] { team->help(); });
  // A sleeping thread needs 50 microseconds or so, a sixteenth of a long call is worth waiting for.
  const double patience = operations / 5e4 / 16;
  team->lead(threads - 1, static_cast<long>(std::max(60.0, std::min(patience, 1000.0))));
  return ffi::Error::Success();
}

ffi::Error forward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets results,
                   int32_t cell, int32_t present, bool reverse, bool store) {
  Reader from(args, results);
  Forward f{};
  read_problem(from, present, cell, reverse, f);
  f.ys = from.result();
  f.h = from.result();
  f.c = from.result(f.c0);
  f.gates = from.result(store);
  f.cs = from.result(store && f.c0);
  f.hs = from.result(store && f.mask);
  if (ffi::Error error = from.status(); error.failure()) return error;
  return perform(f, engine()->forward_scratch, engine()->forward, pool);
}

ffi::Error backward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets results,
                    int32_t cell, int32_t present, bool reverse, int32_t wanted) {
  Reader from(args, results);
  Backward f{};
  read_problem(from, present, cell, reverse, f);
  f.gates = from.operand();
  f.cs = from.operand(f.c0);
  f.hs = from.operand();
  f.dys = from.operand();
  f.dh = from.operand();
  f.dc = from.operand(f.c0);
  f.dxs = from.result(has(wanted, kXs));
  f.dh0 = from.result(has(wanted, kH0));
  f.dc0 = from.result(has(wanted, kC0));
  f.dw_ih = from.result(has(wanted, kWih));
  f.dw_hh = from.result(has(wanted, kWhh));
  f.db = from.result(has(wanted, kB));
  f.db_hn = from.result(has(wanted, kBhn));
  f.dh_reset = from.result(has(wanted, kHReset));
  f.dc_reset = from.result(has(wanted, kCReset));
  if (ffi::Error error = from.status(); error.failure()) return error;
  return perform(f, engine()->backward_scratch, engine()->backward, pool);
}

}  // namespace

#define SEQJAX_EXPORT extern "C" __attribute__((visibility("default")))

// Floats in a vector of the build that runs here; 0 if none does.
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

SEQJAX_EXPORT XLA_FFI_Error* seqjax_forward(XLA_FFI_CallFrame* frame) {
  return forward_handler(frame);
}
SEQJAX_EXPORT XLA_FFI_Error* seqjax_backward(XLA_FFI_CallFrame* frame) {
  return backward_handler(frame);
}

}  // namespace seqjax
