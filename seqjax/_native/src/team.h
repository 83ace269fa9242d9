// The members of one call's team: the calling thread, and the helpers that arrive before it begins.
//
// No thread waits for a helper that has not started. If the thread pool is busy or has no threads,
// a call takes longer, but it cannot deadlock.
#pragma once

#include <atomic>
#include <cstdint>

namespace seqjax {

// The cores of the machine. Each core can be claimed by one thread of a team.
class Cores {
 public:
  bool claim(int core);  // true if no thread has claimed the core before

 private:
  static constexpr int kWords = 16;
  std::atomic<uint64_t> words_[kWords] = {};
};

class Team {
 public:
  using Work = void (*)(void* data, Team& team, int id);

  // The calling thread is the leader.
  Team(Work work, void* data);

  // Called by the leader. Waits up to `patience` microseconds for `helpers` helpers, works with
  // those that have arrived, and returns when all members are done.
  void lead(int helpers, long patience);

  // Called by a helper. Returns at once if the work has begun without this helper.
  void help();

  // Waits until every member has called `barrier`. A barrier must separate a write by one member
  // from a read by another member.
  void barrier();

  // Returns the index of the next piece of a list of work, 0, 1, ... Each member takes the next
  // remaining piece, so that a slow member takes fewer pieces.
  enum List { kInputs, kWeights, kRows, kLists };
  long claim(List list);

  int size() const { return size_; }

  // Returns true if the members of recent calls waited for each other most of the time, which
  // happens if more threads run than there are cores. Work with a barrier at every step is then
  // faster with one thread. After one such call the function returns true for as long as that call
  // took; after several such calls in a row, for up to two seconds.
  static bool idle_of_late();

 private:
  Work work_;
  void* data_;
  Cores cores_;
  int size_ = 1;
  std::atomic<int> joined_{1};
  std::atomic<bool> begun_{false};
  std::atomic<int> done_{0}, waiting_{0}, round_{0};
  std::atomic<long> waited_{0};  // microseconds at barriers, summed over all members
  std::atomic<long> claimed_[kLists] = {};
};

}  // namespace seqjax
