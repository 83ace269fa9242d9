// The engine for one instruction set. SEQJAX_VARIANT is its name; compiler flags select it.
//
// This file must not use inline functions of the standard library. The linker keeps only one copy
// of such a function, which may be compiled for an instruction set that this processor lacks.
#include "engine.h"

#include "backward.h"
#include "forward.h"
#include "readout.h"

namespace seqjax {
namespace SEQJAX_VARIANT {
namespace {

template <class C>
long count(const Forward& f, int workers) {
  Scratch scratch(nullptr);
  ForwardLoop<C>(f, workers, scratch);
  return scratch.used();
}
template <class C>
void run(const Forward& f, float* memory, Team& team, int id) {
  Scratch scratch(memory);
  ForwardLoop<C>(f, team.size(), scratch).work(team, id);
}
template <class C>
long count(const Backward& f, int workers) {
  Scratch scratch(nullptr);
  BackwardLoop<C>(f, workers, scratch);
  return scratch.used();
}
template <class C>
void run(const Backward& f, float* memory, Team& team, int id) {
  Scratch scratch(memory);
  BackwardLoop<C>(f, team.size(), scratch).work(team, id);
}

template <class Call>
long scratch_of(const Call& f, int workers) {
  switch (f.cell) {
    case kLstm: return count<LstmCell>(f, workers);
    case kGru: return count<GruCell>(f, workers);
    case kElmanTanh: return count<ElmanCell<false>>(f, workers);
    default: return count<ElmanCell<true>>(f, workers);
  }
}
template <class Call>
void run_any(const Call& f, float* memory, Team& team, int id) {
  switch (f.cell) {
    case kLstm: return run<LstmCell>(f, memory, team, id);
    case kGru: return run<GruCell>(f, memory, team, id);
    case kElmanTanh: return run<ElmanCell<false>>(f, memory, team, id);
    default: return run<ElmanCell<true>>(f, memory, team, id);
  }
}

long readout_scratch(const Readout& x, int workers) {
  Scratch scratch(nullptr);
  ReadoutLoop(x, workers, scratch);
  return scratch.used();
}
void readout(const Readout& x, float* memory, Team& team, int id) {
  Scratch scratch(memory);
  ReadoutLoop(x, team.size(), scratch).work(team, id);
}

}  // namespace

extern const Engine engine;
const Engine engine = {kLanes,
                       scratch_of<Forward>,
                       run_any<Forward>,
                       scratch_of<Backward>,
                       run_any<Backward>,
                       readout_scratch,
                       readout};

}  // namespace SEQJAX_VARIANT
}  // namespace seqjax
