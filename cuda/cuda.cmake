# CUDA for the library: by nvcc for GPUs, for the emulator by the compiler of C++, or not at all. Sets
#   cuda          toolkit, emulated or off
#   cuda_sources  what the library has of it
# and moegrad_cuda(TARGET), for what these sources are compiled into.

set(MOEGRAD_CUDA "auto" CACHE STRING
  "toolkit (nvcc), emulated (kernels run on the CPU, for tests), off, or auto: toolkit where nvcc is found")
set_property(CACHE MOEGRAD_CUDA PROPERTY STRINGS auto toolkit emulated off)
option(MOEGRAD_NVCC "With the emulator: compile the kernels by nvcc too, where it is found" OFF)

set(cuda ${MOEGRAD_CUDA})
if(cuda STREQUAL "auto" OR MOEGRAD_NVCC)
  include(CheckLanguage)
  check_language(CUDA)
endif()
if(cuda STREQUAL "auto")
  set(cuda off)
  if(CMAKE_CUDA_COMPILER)
    set(cuda toolkit)
  endif()
endif()
set(has_nvcc OFF)
if(cuda STREQUAL "toolkit" OR (MOEGRAD_NVCC AND CMAKE_CUDA_COMPILER))
  set(has_nvcc ON)
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90-real 100-real 120)
  endif()
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_STANDARD__HAS_FULL_SUPPORT ON)
    set(CMAKE_CUDA_STANDARD_LATEST 20)
  endif()
  find_package(CUDAToolkit 13.0 REQUIRED)
  if(NOT TARGET CUDA::cublas)
    message(FATAL_ERROR "[cmake] the CUDA toolkit has no cuBLAS. Install it, or configure with -DMOEGRAD_CUDA=off.")
  endif()
endif()

set(cuda_sources ${PROJECT_SOURCE_DIR}/cuda/absent.cc)
file(GLOB device_sources CONFIGURE_DEPENDS cuda/*.cc)
file(GLOB device_kernels CONFIGURE_DEPENDS cuda/*.cu)
list(FILTER device_sources EXCLUDE REGEX "/absent\\.cc$")
list(APPEND device_sources ${device_kernels})
set_source_files_properties(${device_sources} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
if(NOT cuda STREQUAL "off")
  set(cuda_sources ${device_sources})
endif()

# For a target of nvcc's. Without contraction, as on the host: the same bits. fmt 9 does not know nvcc.
function(moegrad_gpu target)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;--expt-relaxed-constexpr;--extended-lambda;-DFMT_USE_CONSTEXPR=1>")
  target_link_libraries(${target} PRIVATE CUDA::cudart_static CUDA::cublas ${CMAKE_DL_LIBS})
  set_target_properties(${target} PROPERTIES CUDA_STANDARD 20)
endfunction()

function(moegrad_cuda target)
  if(cuda STREQUAL "emulated")
    target_compile_definitions(${target} PRIVATE MOEGRAD_CUDA_EMULATED)
    target_link_libraries(${target} PRIVATE cuda_emulator)
  elseif(cuda STREQUAL "toolkit")
    moegrad_gpu(${target})
  endif()
endfunction()

if(cuda STREQUAL "emulated")
  if(MOEGRAD_TESTS)
    enable_testing()
  endif()
  set(CUDA_EMULATOR_TESTS ${MOEGRAD_TESTS})
  set(CUDA_EMULATOR_INSTALL ON)
  add_subdirectory(cuda/emulator)
  cuda_emulator_kernels(${device_kernels})
elseif(CUDA_EMULATOR_TESTS)  # for itself
  enable_testing()
  add_subdirectory(cuda/emulator)
endif()
