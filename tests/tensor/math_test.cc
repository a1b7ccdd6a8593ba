#include "tensor/math.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "tensor/kernels.h"

using namespace moegrad;

namespace {

// |got - want| in units of the last place of want's type, where `want` is rounded to.
template <class T>
double ulps(T got, long double want) {
  const auto rounded = static_cast<T>(want);
  if (std::isnan(rounded) || std::isinf(rounded)) {
    const bool same = std::isnan(rounded) ? std::isnan(got) : got == rounded;
    return same ? 0.0 : std::numeric_limits<double>::infinity();
  }
  const T size = std::abs(rounded);
  const T unit = std::nextafter(size, std::numeric_limits<T>::infinity()) - size;
  const long double error = static_cast<long double>(got) - want;
  const auto distance = static_cast<double>(std::abs(error) / static_cast<long double>(unit));
  return std::isnan(distance) ? std::numeric_limits<double>::infinity() : distance;
}

template <class T>
struct Function {
  const char* name;
  T (*fast)(T);
  T (*standard)(T);
  long double (*exact)(long double);
  double bound;  // in ulp
};

template <class T>
std::vector<Function<T>> functions() {
  using L = long double;
  return {{"exp", [](T x) { return math::exp(x); }, [](T x) { return std::exp(x); },
           [](L x) { return std::exp(x); }, 1.1},
          {"log", [](T x) { return math::log(x); }, [](T x) { return std::log(x); },
           [](L x) { return std::log(x); }, 1.0},
          {"log1p", [](T x) { return math::log1p(x); }, [](T x) { return std::log1p(x); },
           [](L x) { return std::log1p(x); }, 1.6},
          {"tanh", [](T x) { return math::tanh(x); }, [](T x) { return std::tanh(x); },
           [](L x) { return std::tanh(x); }, 1.6},
          {"erf", [](T x) { return math::erf(x); }, [](T x) { return std::erf(x); },
           [](L x) { return std::erf(x); }, 1.6}};
}

// Dense sweeps near 0, near 1 and over all that is not 0, 1 or infinity in either type, and numbers
// of every exponent.
template <class T>
std::vector<T> arguments() {
  const int points = std::getenv("MOEGRAD_TEST_QUICK") != nullptr ? 2000 : 40000;
  std::vector<T> all;
  for (const auto& [low, high] : std::vector<std::pair<double, double>>{
           {-1e-3, 1e-3}, {-1, 1}, {0.9, 1.1}, {-3, 3}, {-7, 7}, {-110, 100}, {-760, 720}}) {
    for (int i = 0; i < points; ++i) {
      all.push_back(static_cast<T>(low + (high - low) * (i + 0.37) / points));
    }
  }
  using Limits = std::numeric_limits<T>;
  for (int e = Limits::min_exponent - Limits::digits; e < Limits::max_exponent; ++e) {
    for (const double m : {1.0, 1.01, 1.4142135, 1.4142136, 1.9999}) {
      const T x = std::ldexp(static_cast<T>(m), e);
      all.push_back(x);
      all.push_back(-x);
    }
  }
  return all;
}

template <class T>
void check_bounds() {
  for (const Function<T>& f : functions<T>()) {
    double worst = 0.0;
    T place(0);
    for (const T x : arguments<T>()) {
      const double error = ulps(f.fast(x), f.exact(static_cast<long double>(x)));
      if (error > worst) {
        worst = error;
        place = x;
      }
    }
    INFO(f.name << " of " << 8 * sizeof(T) << " bits at " << place);
    CHECK(worst <= f.bound);
  }
}

template <class T>
void check_special_values() {
  using Limits = std::numeric_limits<T>;
  for (const Function<T>& f : functions<T>()) {
    for (const T x : {T(0), T(-0.0), T(1), T(-1), T(-2), Limits::infinity(), -Limits::infinity(),
                      Limits::quiet_NaN(), -Limits::quiet_NaN(), Limits::max(), Limits::lowest(),
                      Limits::min(), -Limits::min(), Limits::denorm_min(), -Limits::denorm_min()}) {
      INFO(f.name << " of " << x);
      const T got = f.fast(x);
      const T want = f.standard(x);
      CHECK(std::isnan(got) == std::isnan(want));
      if (std::isnan(want)) continue;
      CHECK(std::signbit(got) == std::signbit(want));
      CHECK(ulps(got, static_cast<long double>(want)) <= 1.0);
    }
  }
}

// The last exponents that give a number at all, and the first that give infinity.
template <class T>
void check_ends_of_exp(double smallest, double largest) {
  const auto low = static_cast<T>(smallest);
  const auto high = static_cast<T>(largest);
  CHECK(math::exp(low) > T(0));
  CHECK(math::exp(std::nextafter(low, T(-1000)) - T(0.7)) == T(0));
  CHECK(std::isfinite(math::exp(high)));
  CHECK(std::isinf(math::exp(std::nextafter(high, T(1000)))));
}

// Every function in one long loop and one element at a time.
template <class T>
void check_bits() {
  const std::vector<T> x = arguments<T>();
  const auto n = static_cast<std::int64_t>(x.size());
  const Tensor all = Tensor::of<T>({n}, x);
  for (const int function :
       {UnaryFunctors::index_of<functor::Exp>(), UnaryFunctors::index_of<functor::Log>(),
        UnaryFunctors::index_of<functor::Softplus>(), UnaryFunctors::index_of<functor::Tanh>(),
        UnaryFunctors::index_of<functor::GeluErf>(), UnaryFunctors::index_of<functor::Silu>()}) {
    Kernels& k = kernels(Device::cpu);
    const Tensor together = Tensor::empty({n}, all.dtype(), Device::cpu);
    k.unary(function, {}, all, together);
    const Tensor apart = Tensor::empty({n}, all.dtype(), Device::cpu);
    for (std::int64_t i = 0; i < n; i += 7)
      k.unary(function, {}, all.rows(i, i + 1), apart.rows(i, i + 1));
    bool same = true;
    for (std::int64_t i = 0; i < n; i += 7) {
      same = same && together.rows(i, i + 1).same_bits(apart.rows(i, i + 1));
    }
    INFO("function " << function);
    CHECK(same);
  }
}

}  // namespace

TEST_CASE("the fast functions are within their bounds in ulp") {
  check_bounds<float>();
  check_bounds<double>();
}

TEST_CASE("the fast functions agree with the standard ones at special values") {
  check_special_values<float>();
  check_special_values<double>();
}

TEST_CASE("exp reaches into the subnormal numbers and up to the largest number") {
  check_ends_of_exp<float>(-103.97207, 88.7228317);
  check_ends_of_exp<double>(-745.13321910194110, 709.78271289338397);
}

TEST_CASE("an element has the same bits in the body of a loop and alone") {
  check_bits<float>();
  check_bits<double>();
}
