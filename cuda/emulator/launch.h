#pragma once

#include <cstddef>
#include <utility>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "cuda/emulator/block.h"
#include "cuda/emulator/runtime.h"
#endif

// Launches, in both builds:  launch<sum_rows<float>>({.grid = rows, .block = 256}, x, out)
// for  kernel<<<grid, block, shared, stream>>>(x, out).
namespace cuda_emulator {

struct Shape {
  dim3 grid, block;
  std::size_t shared = 0;  // bytes of dynamic shared memory
  cudaStream_t stream = nullptr;
};

// Does what launch() asks of the runtime.
#ifndef __CUDACC__
cudaError_t submit(Grid&& grid, cudaStream_t stream);
void check_on_host(const char* call);  // ends a kernel that makes such a call

// "sum<float>", of what the compiler calls "{anonymous}::sum<float>".
template <auto kKernel>
std::string kernel_name() {
  constexpr std::string_view kText = __PRETTY_FUNCTION__;
  constexpr std::size_t kBegin = kText.find("kKernel = ") + 10;
  std::string name(kText.substr(kBegin, kText.rfind(']') - kBegin));
  if (const std::size_t more = name.find("; "); more != name.npos) name.resize(more);
  for (const std::string_view extra :
       {"&", "{anonymous}::", "(anonymous namespace)::", "<unnamed>::"}) {
    for (std::size_t at; (at = name.find(extra)) != name.npos;) name.erase(at, extra.size());
  }
  return name;
}
#endif

template <auto kKernel, class... P, class... A>
cudaError_t launch_as(void (*)(P...), const Shape& shape, A&&... a) {
#ifdef __CUDACC__
  return [&](P... p) {
    void* given[] = {const_cast<void*>(static_cast<const void*>(&p))..., nullptr};
    const auto* const code = reinterpret_cast<const void*>(kKernel);
    if (shape.shared > 48 * 1024) {
      const cudaError_t error = cudaFuncSetAttribute(
          code, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared));
      if (error != cudaSuccess) return error;
    }
    return cudaLaunchKernel(code, shape.grid, shape.block, given, shape.shared, shape.stream);
  }(std::forward<A>(a)...);
#else
  check_on_host("cudaLaunchKernel");
  static_assert((std::is_trivially_copyable_v<P> && ...),
                "a kernel's parameters are copied to the device: no references, no owners");
  using Given = std::tuple<P...>;
#ifdef CUDA_EMULATOR_OBSERVES
  constexpr bool kObserved = true;
#else
  constexpr bool kObserved = false;
#endif
  const auto body = [](const void* given) {
    std::apply(kKernel, *static_cast<const Given*>(given));
  };
  return submit({kernel_name<kKernel>(), shape.grid, shape.block, shape.shared, body,
                 std::make_shared<Given>(std::forward<A>(a)...), sizeof(Given), kObserved},
                shape.stream);
#endif
}

// Arguments are converted to the kernel's own types, as in a call.
template <auto kKernel, class... A>
cudaError_t launch(const Shape& shape, A&&... a) {
  return launch_as<kKernel>(kKernel, shape, std::forward<A>(a)...);
}

}  // namespace cuda_emulator
