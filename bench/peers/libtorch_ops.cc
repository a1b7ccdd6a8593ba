// Prints nanoseconds to record an operation on a tensor of one element, and to replay it: the loop
// of time_tape() in bench/report/models.cc, with PyTorch's C++ interface.
#include <chrono>
#include <cstdio>

#include <torch/torch.h>

using Clock = std::chrono::steady_clock;

static void run(int calls, double& record, double& backward) {
  constexpr int kOperations = 1000;
  const torch::Tensor a = torch::full({1}, 0.999F, torch::requires_grad());
  Clock::duration recorded{}, replayed{};
  for (int i = 0; i < calls; ++i) {
    const torch::Tensor x = torch::full({1}, 1.0F, torch::requires_grad());
    const auto start = Clock::now();
    torch::Tensor y = x;
    for (int n = 0; n < kOperations; n += 2) y = y * a + a;
    const auto middle = Clock::now();
    torch::autograd::grad({y}, {x, a});
    replayed += Clock::now() - middle;
    recorded += middle - start;
  }
  const double each = 1e9 / (kOperations * static_cast<double>(calls));
  record = std::chrono::duration<double>(recorded).count() * each;
  backward = std::chrono::duration<double>(replayed).count() * each;
}

int main() {
  torch::set_num_threads(1);
  double record = 0.0, backward = 0.0;
  run(10, record, backward);
  run(50, record, backward);
  std::printf("%.1f %.1f\n", record, backward);
}
