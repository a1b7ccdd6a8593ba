#include "pass.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "autograd/transfer.h"
#include "moe/padding.h"
#include "ops/ops.h"

namespace moegrad::python {
namespace {

// A word that is another one where an element is, all but surely: sums of products of halves of
// words, each with a key of its own, as in XXH3.
std::uint64_t fingerprint(const Tensor& t) {
  constexpr std::uint64_t kOdd = 0x9e37'79b9'7f4a'7c15U;
  constexpr std::size_t kLanes = 8;
  std::uint64_t sums[kLanes] = {};
  std::uint64_t words[kLanes];
  std::uint64_t key = kOdd;
  const std::byte* p = t.raw();
  std::size_t left = t.bytes();
  const auto add = [&] {
    for (std::size_t i = 0; i < kLanes; ++i) {
      const std::uint64_t word = words[i] ^ (key + i * kOdd);
      sums[i] += (word & 0xffff'ffffU) * (word >> 32) + word;
    }
    key += kLanes * kOdd;
  };
  for (; left >= sizeof words; left -= sizeof words, p += sizeof words) {
    std::memcpy(words, p, sizeof words);
    add();
  }
  std::memset(words, 0, sizeof words);
  if (left > 0) std::memcpy(words, p, left);
  add();
  std::uint64_t result = 0;
  for (const std::uint64_t sum : sums) result = (std::rotl(result, 17) ^ sum) * kOdd;
  return result;
}

// Each row n times, one behind the other.
Var copies_of(Var x, std::int64_t n) {
  if (n == 1) return x;
  const Tensor rows = Tensor::empty({n * x.size(0)}, DType::i32, Device::cpu);
  for (std::int64_t i = 0; i < rows.numel(); ++i) {
    rows.write<std::int32_t>()[i] = static_cast<std::int32_t>(i / n);
  }
  return gather_rows(x, rows.to(x.value().device()));
}
Tensor copies_of(const Tensor& words, std::int64_t n) {
  if (!words.defined() || n == 1) return words;
  const Tensor out = Tensor::empty({n * words.numel()}, DType::i32, Device::cpu);
  for (std::int64_t i = 0; i < out.numel(); ++i) {
    out.write<std::int32_t>()[i] = words.data<std::int32_t>()[i / n];
  }
  return out;
}

void require_like(const char* name, const Tensor& given, const Shape& shape, DType dtype,
                  const char* what) {
  if (given.shape() == shape && given.dtype() == dtype) return;
  fail("layer", "{} is {} {} and should be {} {}, as {} is. Give it so.", name,
       name_of(given.dtype()), given.shape(), name_of(dtype), shape, what);
}

Tape::Options options_of(const PassInput& in) {
  Tape::Options options;
  options.check_finite = in.check_finite;
  options.gradients = !in.wanted.empty();
  options.rng.seed = in.seed;
  if (in.run != nullptr) {
    Tape& outer = in.run->get().tape();
    options.track_cell = outer.options().track_cell;
    options.decisions = &outer.decisions();
    options.rng = outer.options().rng.split(0x6c61'7965'7200'0000U + in.run->count_pass());
  }
  return options;
}

}  // namespace

const Parameters& Mixture::declared() const {
  std::call_once(once_, [&] {
    Rng rng;
    layer_.declare("", declared_, rng);
    for (Parameter& p : declared_) {
      if (p.trained) p.value.release();
    }
  });
  return declared_;
}

Pass::Pass(std::shared_ptr<const Mixture> mixture, PassInput input)
    : mixture_(std::move(mixture)), in_(std::move(input)), tape_(options_of(in_)) {
  const std::uint64_t asked = tape_.rng_asked();
  forward();
  random_ = tape_.rng_asked() > asked;
  if (in_.run == nullptr) return;
  // The program's tape hears of what happened on this one.
  Tape& outer = in_.run->get().tape();
  for (std::uint64_t i = asked; i < tape_.rng_asked(); ++i) outer.rng();
  outer.cell().signature(tape_.cell().signature());
  outer.cell().distance(tape_.cell().distance());
}

std::int64_t Pass::copies() const {
  return in_.training ? mixture_->layer().estimator().samples() : 1;
}

bool Pass::wants(std::string_view name) const {
  return std::ranges::find(in_.wanted, name) != in_.wanted.end();
}

Var Pass::leaf(const std::string& name, const Tensor& value) {
  const Var v = wants(name) ? tape_.variable(value) : tape_.constant(value);
  if (tape_.options().gradients) {
    leaves_.push_back({name, v, in_.guard ? fingerprint(value) : 0});
  }
  return to(v, mixture_->device());
}

void Pass::forward() {
  const Var x = leaf("x", in_.x);
  for (const auto& [name, value] : in_.weights) weights_.set(name, leaf(name, value));
  const std::int64_t n = copies();
  LayerInput& in = input_.emplace(LayerInput{copies_of(x, n), weights_, in_.training});
  in.sequence = in_.sequence * n;
  in.dropless = in_.dropless;
  const auto there = [&](const Tensor& t) { return t.defined() ? t.to(mixture_->device()) : t; };
  in.mask = there(copies_of(in_.mask, n));
  in.ids = there(copies_of(in_.ids, n));
  in.attention = there(in_.attention);
  out_ = mixture_->layer().forward(in);
}

Tensor Pass::for_all(const Tensor& rows, double fill) const {
  // Where the experts work on other rows than the tokens, the routing is of those.
  return with_padding(rows, out_.routing.rows.defined() ? Tensor() : out_.mask, fill);
}

void Pass::require_unchanged() const {
  if (!in_.guard) return;
  for (const Leaf& leaf : leaves_) {
    if (fingerprint(leaf.v.value()) == leaf.word) continue;
    fail("layer",
         "'{}' was written after the pass that read it, and backward needs it as it was. Write "
         "after backward, or give the layer a copy.",
         leaf.name);
  }
}

Var Pass::objective(const Tensor& dy, const Tensor& losses) {
  const Estimator& estimator = mixture_->layer().estimator();
  const bool needed = in_.training && estimator.needs_losses();
  if (!needed && losses.defined()) {
    fail("layer", "losses are given, and estimator {} needs none{}. Leave them out.",
         mixture_->layer().config().estimator, in_.training ? "" : " at inference");
  }
  if (!needed) return dy.defined() ? sum(out_.y * tape_.constant(dy)) : Var();
  const std::int64_t rows = out_.y.size(0);
  if (!dy.defined() || !losses.defined()) {
    fail("layer",
         "estimator {} is made of the loss of each row of y. Give backward(dy, losses=...): losses "
         "of shape [{}], and dy, the derivative of each row's loss by its y.",
         mixture_->layer().config().estimator, rows);
  }
  if (in_.run != nullptr) {
    fail("layer",
         "estimator {} makes its objective in backward, which a check cannot replay. Use "
         "mg.check_estimator.",
         mixture_->layer().config().estimator);
  }
  require_like("losses", losses, {rows}, out_.y.dtype(), "the rows of y");
  // These values, with the derivative dy.
  const Var linear = sum(out_.y * tape_.constant(dy), 1);
  const Var of_rows = linear + (tape_.constant(losses) - stop_gradient(linear));
  std::int64_t tokens = rows;
  if (input_->mask.defined()) {
    const Tensor host = input_->mask.to(Device::cpu);
    const auto mask = host.values<std::int32_t>();
    tokens = std::count(mask.begin(), mask.end(), 1);
  }
  const double mean_to_sum = static_cast<double>(tokens) / static_cast<double>(copies());
  return mean_to_sum * mixture_->layer().objective(of_rows, out_, *input_);
}

Named Pass::backward(const Tensor& dy_on_host, double auxiliary, const Tensor& losses_on_host,
                     bool retain) {
  const std::scoped_lock lock(mutex_);
  if (!tape_.options().gradients) {
    fail("layer", "the pass was made without gradients. Make one with gradients=True.");
  }
  const auto there = [&](const Tensor& t) { return t.defined() ? t.to(mixture_->device()) : t; };
  const Tensor dy = there(dy_on_host);
  const Tensor losses = there(losses_on_host);
  if (dy.defined()) require_like("dy", dy, out_.y.shape(), out_.y.dtype(), "y");
  require_unchanged();
  struct Rewind {
    Tape& tape;
    Tape::Mark mark;
    ~Rewind() { tape.rewind(mark); }
  } rewind{tape_, tape_.mark()};
  const bool with_auxiliary = out_.auxiliary.defined() && auxiliary != 0.0;
  BackwardOptions options;
  options.retain = retain;
  Var loss;
  if (with_auxiliary || losses.defined() || mixture_->layer().estimator().needs_losses()) {
    loss = objective(dy, losses);
    if (with_auxiliary) {
      const Var added = auxiliary * out_.auxiliary;
      loss = loss.defined() ? loss + added : added;
    }
  } else if (dy.defined()) {
    loss = out_.y;
    options.cotangent = dy;
  }
  if (!loss.defined()) {
    fail("layer", "there is no dy, and no auxiliary loss. Give dy, an array like y.");
  }
  const Gradients gradients = tape_.backward(loss, options);
  Named found;
  for (const Leaf& leaf : leaves_) {
    if (leaf.v.needs_gradient()) found.emplace_back(leaf.name, gradients[leaf.v]);
  }
  return found;
}

}  // namespace moegrad::python
