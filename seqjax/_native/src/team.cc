#include "team.h"

#include <chrono>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace seqjax {
namespace {

constexpr int kClosed = 1 << 20;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr long kMostAlone = 2000000;  // microseconds

long now() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::microseconds>(time).count();
}

std::atomic<long> alone_until{0};
std::atomic<int> idle_calls{0};  // number of such calls in a row

// Spins until `ready`, and yields the core from time to time, so that other threads can run if
// there are more threads than cores. Returns the microseconds that it waited, 0 for a short wait.
template <class Ready>
long wait_until(Ready ready) {
  long begin = 0;
  for (int spins = 1; !ready(); ++spins) {
    if (spins % 512) {
      relax();
    } else {
      if (!begin) begin = now();
      std::this_thread::yield();
    }
  }
  return begin ? now() - begin : 0;
}

// Treats denormal numbers as zero, as XLA's threads do. Denormals are a hundred times slower.
class NoDenormals {
 public:
#if defined(__x86_64__)
  NoDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~NoDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  NoDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" : : "r"(before_ | (1ull << 24)));
  }
  ~NoDenormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }

 private:
  unsigned long long before_;
#endif
};

#if defined(__linux__)
// Gives a helper a core of its own. Linux may run a thread on the core of the thread that woke it,
// for milliseconds, although another core is idle. Such a helper moves to a free core. After the
// call, the helper may run on all cores again.
class OwnCore {
 public:
  explicit OwnCore(Cores& taken) {
    const int here = sched_getcpu();
    if (here < 0 || taken.claim(here)) {
      found_ = true;
      return;
    }
    if (sched_getaffinity(0, sizeof(allowed_), &allowed_)) return;
    for (int core = 0; core < CPU_SETSIZE && !found_; ++core) {
      found_ = CPU_ISSET(core, &allowed_) && taken.claim(core);
      if (!found_) continue;
      cpu_set_t there;
      CPU_ZERO(&there);
      CPU_SET(core, &there);
      moved_ = !sched_setaffinity(0, sizeof(there), &there);
    }
  }
  ~OwnCore() {
    if (moved_) sched_setaffinity(0, sizeof(allowed_), &allowed_);
  }
  OwnCore(const OwnCore&) = delete;
  OwnCore& operator=(const OwnCore&) = delete;
  bool found() const { return found_; }

 private:
  cpu_set_t allowed_;
  bool found_ = false, moved_ = false;
};
int current_core() { return sched_getcpu(); }
#else
struct OwnCore {
  explicit OwnCore(Cores&) {}
  bool found() const { return true; }
};
int current_core() { return -1; }
#endif

}  // namespace

bool Cores::claim(int core) {
  if (core < 0 || core >= 64 * kWords) return true;
  const uint64_t bit = uint64_t{1} << core % 64;
  return !(words_[core / 64].fetch_or(bit, std::memory_order_relaxed) & bit);
}

Team::Team(Work work, void* data) : work_(work), data_(data) { cores_.claim(current_core()); }

void Team::lead(int helpers, long patience) {
  const long until = now() + patience;
  while (joined_.load(std::memory_order_relaxed) <= helpers && now() < until) {
    std::this_thread::yield();  // a helper may be waiting for this core
  }
  size_ = joined_.exchange(kClosed, std::memory_order_acq_rel);
  begun_.store(true, std::memory_order_release);
  const long begin = now();
  {
    NoDenormals mode;
    work_(data_, *this, 0);
  }
  wait_until([this] { return done_.load(std::memory_order_acquire) == size_ - 1; });
  // The work of all members, which one thread would do alone, takes size * time - waited.
  const long time = now() - begin, waited = waited_.load(std::memory_order_relaxed);
  if (10 * waited <= 6 * (size_ - 1) * time) {
    if (size_ > 1) idle_calls.store(0, std::memory_order_relaxed);
    return;
  }
  // A single such call may be an exception, so the engine uses several threads again sooner after
  // one such call than after many.
  const int calls = idle_calls.fetch_add(1, std::memory_order_relaxed);
  const long alone = calls > 16 ? kMostAlone : time << calls;
  alone_until.store(now() + (alone < kMostAlone ? alone : kMostAlone), std::memory_order_relaxed);
}

void Team::help() {
  int id = joined_.load(std::memory_order_relaxed);
  if (id >= kClosed) return;
  const OwnCore core(cores_);
  if (!core.found()) return;
  do {
    if (id >= kClosed) return;
  } while (!joined_.compare_exchange_weak(id, id + 1, std::memory_order_acq_rel));
  wait_until([this] { return begun_.load(std::memory_order_acquire); });
  {
    NoDenormals mode;
    work_(data_, *this, id);
  }
  done_.fetch_add(1, std::memory_order_release);
}

void Team::barrier() {
  if (size_ == 1) return;
  const int round = round_.load(std::memory_order_relaxed);
  if (waiting_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    waiting_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
  } else {
    const auto next = [this, round] { return round_.load(std::memory_order_acquire) != round; };
    if (const long time = wait_until(next)) waited_.fetch_add(time, std::memory_order_relaxed);
  }
}

long Team::claim(List list) { return claimed_[list].fetch_add(1, std::memory_order_relaxed); }

bool Team::idle_of_late() { return now() < alone_until.load(std::memory_order_relaxed); }

}  // namespace seqjax
