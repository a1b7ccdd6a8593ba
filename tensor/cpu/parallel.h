#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace moegrad::cpu {

// Elements of cheap element-wise work (2.4 us of relu) that make up a piece. Sharing out two such
// pieces costs as much as it saves, four take 0.65 of the time of one thread.
inline constexpr std::int64_t kGrain = 32768;

// How many items of `cost` elements each make up one grain; at least 1.
inline std::int64_t items_per_grain(std::int64_t cost) {
  return std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, cost));
}

// The number of workers that parallel_pieces may use when called from here: threads(), and 1 where
// this thread works on a piece already.
int workers();

// A reference to a callable f(piece, worker) that outlives the call.
class PieceWork {
 public:
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, PieceWork>) explicit PieceWork(F& f)
      : object_(const_cast<void*>(static_cast<const void*>(&f))),
        call_([](void* object, std::int64_t piece, int worker) {
          (*static_cast<F*>(object))(piece, worker);
        }) {}
  void operator()(std::int64_t piece, int worker) const { call_(object_, piece, worker); }

 private:
  void* object_;
  void (*call_)(void*, std::int64_t, int);
};

// Runs every piece in [0, pieces) once, on up to workers() threads. The caller works too, and at
// the end waits only for pieces that others have begun: a thread that is late or has lost its
// processor costs nothing. The first exception ends the region and is thrown again.
//   in_order: pieces are handed out one by one as workers become free, the first ones first;
//   near: each worker begins with a run of neighbours, the same in each call of as many pieces.
enum class Share { in_order, near };
void run_pieces(std::int64_t pieces, Share share, PieceWork work);

// Calls f(begin, end) for consecutive pieces of [0, n), each of `grain` items but for the last: the
// same pieces at every number of threads. One piece runs here and now, without a region.
template <class F>
void parallel_for(std::int64_t n, std::int64_t grain, F&& f) {
  if (n <= 0) return;
  if (n <= grain) {
    f(std::int64_t{0}, n);
    return;
  }
  const auto piece = [&](std::int64_t p, int) { f(p * grain, std::min(n, (p + 1) * grain)); };
  run_pieces((n + grain - 1) / grain, Share::near, PieceWork(piece));
}

// Calls f(piece, worker) for every piece in [0, pieces), handed out as workers become free;
// `worker` is below workers() and tells which workspace to use. For pieces of uneven or
// considerable work.
template <class F>
void parallel_pieces(std::int64_t pieces, F&& f) {
  run_pieces(pieces, Share::in_order, PieceWork(f));
}

}  // namespace moegrad::cpu
