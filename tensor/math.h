#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

// exp, log, log1p, tanh and erf for float and double, for the host and the device, without a branch, a table or a call: loops
// over them become vector instructions, and an element has the same bits in the body of a loop as
// in its tail. At most 2 ulp from the exact value, subnormal numbers included; infinities and NaN
// as in <cmath>. tests/tensor/math_test.cc holds them to that.
//
// Arguments are reduced as in W. J. Cody and W. Waite, Software Manual for the Elementary
// Functions (1980). The polynomials are minimax for their intervals (Remez exchange), lowest
// coefficient first.

// For the host and for a GPU; on the host inlined: a call would end the vector, however large the function.
#ifdef __CUDACC__
#define MOEGRAD_HD __host__ __device__ inline
#else
#define MOEGRAD_HD [[gnu::always_inline]] inline
#endif

namespace moegrad::math {
namespace detail {

template <class T>
struct Constants;

template <>
struct Constants<float> {
  using Bits = std::uint32_t;
  static constexpr int kMantissa = 23;
  static constexpr Bits kBias = 127;
  static constexpr float kRounder = 0x1.8p23F;  // x + kRounder is x to the nearest integer
  // ln 2 in two parts: the first has so few bits that its products with exponents are exact.
  static constexpr float kLn2High = 0x1.62e3p-1F, kLn2Low = 9.05800061e-6F;
  static constexpr float kExpLow = -104.0F, kExpHigh = 89.0F;  // below 0, above infinity
  static constexpr float kTanhNear = 0.55F;
  static constexpr float kErfOne = 4.0F;  // from here on erf is 1
  // (e^r - 1 - r) / r^2 for |r| <= ln(2)/2
  MOEGRAD_HD static constexpr std::array<float, 5> exp_terms() {
    return {0.5F, 0.166665435F, 0.0416662805F, 0.00836660154F, 0.00139464764F};
  }
  // (atanh(s) - s) / (s^3/2) by s^2, for |s| <= 3 - sqrt(8)
  MOEGRAD_HD static constexpr std::array<float, 3> log_terms() {
    return {0.666667759F, 0.399775237F, 0.298722923F};
  }
  // (tanh(x)/x - 1) / x^2 by x^2, for x <= kTanhNear
  MOEGRAD_HD static constexpr std::array<float, 5> tanh_terms() {
    return {-0.333333194F, 0.133326009F, -0.053853754F, 0.0210772995F, -0.00628178101F};
  }
  // erf(x)/x - 1 by x^2, for x <= 1
  MOEGRAD_HD static constexpr std::array<float, 7> erf_terms() {
    return {0.128379166F,   -0.37612626F,     0.112836003F,   -0.0268544443F,
            0.00518953567F, -0.000802084338F, 7.88912585e-05F};
  }
  // log(1 - erf(x)) by x - 1, for 1 <= x <= kErfOne
  MOEGRAD_HD static constexpr std::array<float, 8> log_erfc_terms() {
    return {-1.84960556F,  -2.63896751F,   -0.843107104F,   -0.0415634811F,
            0.0100464495F, -0.0020119641F, 0.000289526884F, -2.16865701e-05F};
  }
};

template <>
struct Constants<double> {
  using Bits = std::uint64_t;
  static constexpr int kMantissa = 52;
  static constexpr Bits kBias = 1023;
  static constexpr double kRounder = 0x1.8p52;
  static constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kExpLow = -746.0, kExpHigh = 710.0;
  static constexpr double kTanhNear = 0.55;
  static constexpr double kErfOne = 6.0;
  MOEGRAD_HD static constexpr std::array<double, 11> exp_terms() {
    return {0.5,
            0.16666666666666677,
            0.041666666666666699,
            0.0083333333333215909,
            0.0013888888888866843,
            0.0001984126988623058,
            2.4801587360557081e-05,
            2.7557244101692787e-06,
            2.7557242753030921e-07,
            2.5109075305830312e-08,
            2.0924446617909667e-09};
  }
  MOEGRAD_HD static constexpr std::array<double, 7> log_terms() {
    return {0.66666666666667351, 0.39999999999413355, 0.28571428742723504, 0.22222198535004783,
            0.18183566486242328, 0.1531399110206938,  0.14796583972019281};
  }
  MOEGRAD_HD static constexpr std::array<double, 11> tanh_terms() {
    return {-0.33333333333333298,   0.13333333333326813,    -0.053968253963866564,
            0.021869488388745383,   -0.0088632326467230002, 0.0035920924693053327,
            -0.0014555455644821886, 0.00058845527229054665, -0.00023340808073340146,
            8.335322763912928e-05,  -1.9516693968055151e-05};
  }
  MOEGRAD_HD static constexpr std::array<double, 13> erf_terms() {
    return {0.12837916709551259,     -0.37612638903183748,   0.11283791670954885,
            -0.026866170645077871,   0.0052239776248284089,  -0.00085483269814246271,
            0.00012055331132933385,  -1.492559577188549e-05, 1.6461008476599632e-06,
            -1.6350396243478588e-07, 1.4660329059064364e-08, -1.1374957704183204e-09,
            5.9606896512408307e-11};
  }
  MOEGRAD_HD static constexpr std::array<double, 19> log_erfc_terms() {
    return {-1.8496055099332482,     -2.6389675142347881,     -0.84310725635867678,
            -0.041561098041809193,   0.0100338253744175,      -0.0019779025679729154,
            0.00023732248170981178,  2.6277874456273904e-05,  -2.7159111289531659e-05,
            9.6088996502231473e-06,  -2.0597720386005406e-06, 1.4287588323844034e-07,
            9.7546843493545551e-08,  -5.2037561059075818e-08, 1.4911328532709743e-08,
            -2.8640089804690548e-09, 3.6824304252219043e-10,  -2.881509980778961e-11,
            1.0390812806934581e-12};
  }
};

template <class T>
using Bits = typename Constants<T>::Bits;

template <class T>
MOEGRAD_HD Bits<T> bits(T x) {
  return std::bit_cast<Bits<T>>(x);
}
template <class T>
MOEGRAD_HD T from_bits(Bits<T> x) {
  return std::bit_cast<T>(x);
}

// yes ? a : b, with both sides computed: a branch would keep loops from becoming vectors.
template <class T>
MOEGRAD_HD T select(bool yes, T a, T b) {
  const Bits<T> mask = Bits<T>(0) - Bits<T>(yes);
  return from_bits<T>((bits(a) & mask) | (bits(b) & ~mask));
}

template <class T>
MOEGRAD_HD T magnitude(T x) {
  return from_bits<T>(bits(x) & ~bits(T(-0.0)));
}
template <class T>
MOEGRAD_HD T with_sign_of(T sign, T positive) {
  return from_bits<T>(bits(positive) | (bits(sign) & bits(T(-0.0))));
}

// The sum of c[i] x^i, even and odd powers side by side.
template <class T, std::size_t N>
MOEGRAD_HD T polynomial(T x, const std::array<T, N>& c) {
  constexpr std::size_t kEven = (N - 1) / 2 * 2;  // the highest of either kind
  constexpr std::size_t kOdd = (N - 2) / 2 * 2 + 1;
  const T square = x * x;
  T even = c[kEven];
  T odd = c[kOdd];
  for (std::size_t i = kEven; i >= 2; i -= 2) even = even * square + c[i - 2];
  for (std::size_t i = kOdd; i >= 3; i -= 2) odd = odd * square + c[i - 2];
  return even + x * odd;
}

// 2^n for a number n + bias of the exponent's field.
template <class T>
MOEGRAD_HD T power_of_two(Bits<T> biased) {
  return from_bits<T>(biased << Constants<T>::kMantissa);
}

// log(m 2^k) = k ln 2 + f - (f^2/2 - s (f^2/2 + R)) with f = m - 1, s = f / (2 + f), of a positive
// finite number.
template <class T>
MOEGRAD_HD T log_of_positive(T x) {
  using C = Constants<T>;
  constexpr T kScale = T(Bits<T>(1) << C::kMantissa);
  constexpr Bits<T> kOne = C::kBias << C::kMantissa;
  constexpr Bits<T> kFraction = (Bits<T>(1) << C::kMantissa) - 1;
  const Bits<T> root_half = bits(T(0.70710678118654752440));
  const bool tiny = x < std::numeric_limits<T>::min();
  const Bits<T> u = bits(select(tiny, x * kScale, x)) + (kOne - root_half);
  const T k = from_bits<T>((u >> C::kMantissa) | bits(kScale)) - (kScale + T(C::kBias)) -
              select(tiny, T(C::kMantissa), T(0));
  const T f = from_bits<T>((u & kFraction) + root_half) - T(1);
  const T s = f / (T(2) + f);
  const T z = s * s;
  const T half = T(0.5) * f * f;
  return k * C::kLn2High -
         ((half - (s * (half + z * polynomial(z, C::log_terms())) + k * C::kLn2Low)) - f);
}

}  // namespace detail

using detail::select;

// The types that these functions are for.
template <class T>
concept Own = std::is_same_v<T, float> || std::is_same_v<T, double>;

// x, but 0 for a subnormal number (or -0), which takes a processor thirty times as long to compute with.
template <Own T>
MOEGRAD_HD T flushed(T x) {
  // All ones where the exponent's field is not 0. A comparison would be made a branch.
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  using Signed = std::make_signed_t<detail::Bits<T>>;
  const auto exponent = static_cast<Signed>(detail::bits(x) & detail::bits(kInfinity));
  const Signed normal = -exponent >> (8 * sizeof(T) - 1);
  return detail::from_bits<T>(detail::bits(x) & static_cast<detail::Bits<T>>(normal));
}

template <Own T>
MOEGRAD_HD T exp(T x) {
  using C = detail::Constants<T>;
  // An underflow takes a processor ten times as long as the rest of the function.
  const bool vanishes = x < C::kExpLow;
  x = select(x > C::kExpHigh, C::kExpHigh, x);
  x = select(vanishes, T(0), x);
  // x = n ln 2 + r; the last bits of `shifted` are n.
  const T shifted = x * T(1.44269504088896340736) + C::kRounder;
  const T n = shifted - C::kRounder;
  const T r = (x - n * C::kLn2High) - n * C::kLn2Low;
  const T exp_r = T(1) + (r + r * r * detail::polynomial(r, C::exp_terms()));
  // 2^n in two factors: one rounding, in the last product, be it to infinity, to a subnormal
  // number or to 0.
  const auto twice_biased = detail::bits(shifted) - detail::bits(C::kRounder) + 2 * C::kBias;
  const auto first = twice_biased >> 1;
  const T exp_x =
      exp_r * detail::power_of_two<T>(first) * detail::power_of_two<T>(twice_biased - first);
  return select(vanishes, T(0), exp_x);
}

template <Own T>
MOEGRAD_HD T log(T x) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  // NaN and infinity are their own logarithms.
  T special = select(x < T(0), std::numeric_limits<T>::quiet_NaN(), x);
  special = select(x == T(0), -kInfinity, special);
  return select((x > T(0)) & (x < kInfinity), detail::log_of_positive(x), special);
}

// log(1 + x), with what 1 + x lost to rounding; x itself where it is 0 or -0.
template <Own T>
MOEGRAD_HD T log1p(T x) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const T u = T(1) + x;
  const T lost = select(x < T(1), x - (u - T(1)), T(1) - (u - x));
  const bool regular = (u > T(0)) & (u < kInfinity);
  return select(x == T(0), x, math::log(u) + select(regular, lost / u, T(0)));
}

template <Own T>
MOEGRAD_HD T tanh(T x) {
  using C = detail::Constants<T>;
  const T a = detail::magnitude(x);
  const T square = a * a;
  const T near = a + a * (square * detail::polynomial(square, C::tanh_terms()));
  const T far = T(1) - T(2) / (math::exp(T(2) * a) + T(1));
  return detail::with_sign_of(x, select(a < C::kTanhNear, near, far));
}

template <Own T>
MOEGRAD_HD T erf(T x) {
  using C = detail::Constants<T>;
  const T magnitude = detail::magnitude(x);
  const T a = select(magnitude > C::kErfOne, C::kErfOne, magnitude);
  const T near = a + a * detail::polynomial(a * a, C::erf_terms());
  const T far = T(1) - math::exp(detail::polynomial(a - T(1), C::log_erfc_terms()));
  return detail::with_sign_of(x, select(a < T(1), near, far));
}

// cos(2 pi u) for u in [0, 1], within 2^-52: by quarters of a turn, which are taken off exactly.
MOEGRAD_HD double cos_of_turns(double u) {
  const double quarters = (4.0 * u + 0x1.8p52) - 0x1.8p52;
  const double x = 6.28318530717958647692 * (u - 0.25 * quarters);
  const double z = x * x;
  double sine = -2.81145725434552076320e-15;  // the series of Taylor: |x| is at most pi / 4
  double cosine = 4.77947733238738529744e-14;
  sine = sine * z + 7.64716373181981647590e-13;
  cosine = cosine * z - 1.14707455977297247139e-11;
  sine = sine * z - 1.60590438368216145994e-10;
  cosine = cosine * z + 2.08767569878680989792e-9;
  sine = sine * z + 2.50521083854417187751e-8;
  cosine = cosine * z - 2.75573192239858906526e-7;
  sine = sine * z - 2.75573192239858906526e-6;
  cosine = cosine * z + 2.48015873015873015873e-5;
  sine = sine * z + 1.98412698412698412698e-4;
  cosine = cosine * z - 1.38888888888888888889e-3;
  sine = sine * z - 8.33333333333333333333e-3;
  cosine = cosine * z + 4.16666666666666666667e-2;
  sine = sine * z + 1.66666666666666666667e-1;
  cosine = cosine * z - 0.5;
  sine = x - x * z * sine;
  cosine = 1.0 + z * cosine;
  const auto quarter = static_cast<int>(quarters);
  const double size = quarter % 2 == 0 ? cosine : sine;
  return quarter == 1 || quarter == 2 ? -size : size;
}

}  // namespace moegrad::math
