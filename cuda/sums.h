#pragma once

#include "cuda/lines.h"

// Sums along the middle axis of [outer, n, inner], of what a function of the place gives.
namespace moegrad::cuda {

// Summands of one partial sum. Lines of many are cut, or few lines would keep few threads busy.
inline constexpr std::int64_t kSumChunk = 1024;

// The sum over chunk c of a line is partial [outer, chunks, inner]; chunks are lines themselves.
template <class F>
void sum_chunks(const char* operation, AxisView view, std::int64_t chunks, const F& term,
                double* partial) {
  const AxisView pieces = {view.outer * chunks, kSumChunk, view.inner};
  const Divisor by_inner(view.inner), by_chunks(chunks);
  each_line(operation, pieces, [=] __device__(const Line& piece, const Team& team) {
    const Quotient at = by_inner.of(piece.number);
    const Quotient row = by_chunks.of(at.times);  // the number is in [outer, chunks, inner]
    const std::int64_t begin = row.rest * kSumChunk;
    const std::int64_t left = view.n - begin;
    const Line line = {piece.number, (row.times * view.n + begin) * view.inner + at.rest,
                       view.inner, left < kSumChunk ? left : kSumChunk};
    const double sum = line_sum(line, team, term);
    if (team.leads()) partial[piece.number] = sum;
  });
}

// out [outer, inner] = the sums of term(place), rounded once.
template <class T, class F>
void sum_lines(const char* operation, AxisView view, const F& term, T* to) {
  const std::int64_t chunks = pieces_of(view.n, kSumChunk);
  if (chunks <= 1) {
    each_line(operation, view, [=] __device__(const Line& line, const Team& team) {
      const double sum = line_sum(line, team, term);
      if (team.leads()) to[line.number] = static_cast<T>(sum);
    });
    return;
  }
  const Tensor workspace =
      Tensor::empty({view.outer, chunks, view.inner}, DType::f64, Device::cuda);
  double* const partial = out<double>(workspace);
  sum_chunks(operation, view, chunks, term, partial);
  each_line(operation, {view.outer, chunks, view.inner},
            [=] __device__(const Line& line, const Team& team) {
              const double sum = line_sum(line, team, [=](std::int64_t at) { return partial[at]; });
              if (team.leads()) to[line.number] = static_cast<T>(sum);
            });
}

}  // namespace moegrad::cuda
