// Signals that arrive in the middle of a step: a product that borrowed the stack pointer would be
// overwritten by their handler.
#include <atomic>
#include <csignal>
#include <vector>

#include <doctest/doctest.h>
#include <sys/time.h>

#include "ops/ops.h"
#include "tensor/threads.h"
#include "train/classifier.h"
#include "train/optimiser.h"

namespace moegrad {
namespace {

std::atomic<int> alarms{0};

// SIGALRM every millisecond, to a handler that only counts.
class Alarms {
 public:
  Alarms() {
    struct sigaction action = {};
    action.sa_handler = [](int) { ++alarms; };
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGALRM, &action, &before_);
    set(1000);
  }
  ~Alarms() {
    set(0);
    ::sigaction(SIGALRM, &before_, nullptr);
  }
  Alarms(const Alarms&) = delete;
  Alarms& operator=(const Alarms&) = delete;

 private:
  static void set(int microseconds) {
    const itimerval timer = {{0, microseconds}, {0, microseconds}};
    ::setitimer(ITIMER_REAL, &timer, nullptr);
  }
  struct sigaction before_ = {};
};

// The parameters after 1000 steps of a mixture whose products are large enough for any library.
std::vector<Tensor> trained() {
  LayerConfig config;
  config.size = {.model = 32, .hidden = 64, .output = 32, .experts = 4, .active = 2};
  config.router = "top-k";
  config.estimator = "expert-group";
  const Classifier model(24, 10, config);
  Parameters parameters = model.initial(1, DType::f32);
  AdamWOptimiser optimiser(parameters, {});
  const Tensor x = Rng{.seed = 2}.normal({96, 24}, DType::f32);
  const Tensor labels = Tensor::zeros({96}, DType::i32, Device::cpu);
  Tape tape;
  for (int i = 0; i < 1000; ++i) {
    const Pass pass = model.forward(tape, {.x = x, .labels = labels, .ids = labels}, parameters);
    {
      const Gradients gradients = tape.backward(cross_entropy(pass.predictions[0].value, labels));
      optimiser.step(parameters, gradients, 1e-3);
    }
    tape.clear();
  }
  std::vector<Tensor> values;
  for (const Parameter& p : parameters) values.push_back(p.value.clone());
  return values;
}

TEST_CASE("signals: an alarm every millisecond through 1000 steps changes no bit") {
  const std::vector<Tensor> quiet = trained();
  for (const int threads : {1, 2}) {
    const ThreadScope scope(threads);
    alarms = 0;
    const std::vector<Tensor> disturbed = [] {
      const Alarms on;
      return trained();
    }();
    CHECK(alarms > 20);
    REQUIRE(disturbed.size() == quiet.size());
    for (std::size_t i = 0; i < quiet.size(); ++i) CHECK(disturbed[i].same_bits(quiet[i]));
  }
}

}  // namespace
}  // namespace moegrad
