#include "team.h"

#include <chrono>
#include <thread>

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

constexpr long kLate = 500;           // microseconds
constexpr long kRemembered = 5000000; // microseconds

long now() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::microseconds>(time).count();
}

std::atomic<long> last_late{-kRemembered};

// Spins, and gives the core away now and then: more threads than cores must not starve.
// Returns whether that took long.
template <class Ready>
bool wait_until(Ready ready) {
  long begin = 0;
  for (int spins = 1; !ready(); ++spins) {
    if (spins % 512) {
      relax();
    } else {
      if (!begin) begin = now();
      std::this_thread::yield();
    }
  }
  return begin && now() - begin > kLate;
}

// Treats denormal numbers as zero, as XLA's own threads do: they are a hundred times slower.
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

}  // namespace

void Team::lead(int helpers, long patience) {
  const long until = now() + patience;
  while (joined_.load(std::memory_order_relaxed) <= helpers && now() < until) relax();
  size_ = joined_.exchange(kClosed, std::memory_order_acq_rel);
  begun_.store(true, std::memory_order_release);
  {
    NoDenormals mode;
    work_(data_, *this, 0);
  }
  wait_until([this] { return done_.load(std::memory_order_acquire) == size_ - 1; });
}

void Team::help() {
  int id = joined_.load(std::memory_order_relaxed);
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
    if (wait_until(next)) last_late.store(now(), std::memory_order_relaxed);
  }
}

long Team::claim(List list) { return claimed_[list].fetch_add(1, std::memory_order_relaxed); }

bool Team::late_of_late() {
  return now() - last_late.load(std::memory_order_relaxed) < kRemembered;
}

}  // namespace seqjax
