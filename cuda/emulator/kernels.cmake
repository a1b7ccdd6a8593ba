# cuda_emulator_kernels(FILES...): these .cu files of this folder are compiled for the emulator, by the compiler of C++.
# g++ compiles them to be observed, with the calls that the thread sanitizer makes before each access, and the undefined
# behaviour sanitizer where an index or a sum is wrong: the emulator answers them, no sanitizer is linked. Where the
# build asks for a sanitizer, that one looks on instead; clang tells too little of copies of structs to be of use.
function(cuda_emulator_kernels)
  string(TOUPPER "${CMAKE_BUILD_TYPE}" type)
  # As nvcc: no contraction is asked for, float4 may be the view of floats. Each call keeps its line.
  set(options $<$<NOT:$<CONFIG:Debug,RelWithDebInfo>>:-g1> -ffp-contract=off -fno-strict-aliasing -fno-optimize-sibling-calls)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND
      NOT "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${type}}" MATCHES "fsanitize")
    list(APPEND options -fsanitize=thread --param=tsan-instrument-func-entry-exit=0)
    list(APPEND options -fsanitize=alignment,bounds,signed-integer-overflow,shift,integer-divide-by-zero)
  endif()
  set_source_files_properties(${ARGN} PROPERTIES
    LANGUAGE CXX COMPILE_OPTIONS "${options}" SKIP_UNITY_BUILD_INCLUSION ON SKIP_PRECOMPILE_HEADERS ON)
endfunction()
