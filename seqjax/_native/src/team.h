// The threads of one call: the caller, and the helpers that arrive before it begins.
//
// Nobody waits for a helper that has not started. A pool that is busy, or that has no threads,
// makes a call slower, never stuck.
#pragma once

#include <atomic>

namespace seqjax {

class Team {
 public:
  using Work = void (*)(void* data, Team& team, int id);

  Team(Work work, void* data) : work_(work), data_(data) {}

  // The caller's part: waits up to `patience` microseconds for `helpers` of them, works with those
  // who came, and returns when all are done.
  void lead(int helpers, long patience);

  // A helper's part. It returns at once if the work has begun without it.
  void help();

  // Waits until every member is here. Members write nothing that others read without one between.
  void barrier();

  // The next piece of a list of work, 0, 1, ...: members take what is left, so that one who is
  // slow does less.
  enum List { kInputs, kWeights, kLists };
  long claim(List list);

  int size() const { return size_; }

  // Whether a member was late at a barrier in the last seconds, as where more threads run than
  // there are cores. Work that meets at every step is then done faster alone.
  static bool late_of_late();

 private:
  Work work_;
  void* data_;
  int size_ = 1;
  std::atomic<int> joined_{1};
  std::atomic<bool> begun_{false};
  std::atomic<int> done_{0}, waiting_{0}, round_{0};
  std::atomic<long> claimed_[kLists] = {};
};

}  // namespace seqjax
