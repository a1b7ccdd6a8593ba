# cuda_emulator_kernels(FILES...): these .cu files of this folder are compiled for the emulator, by the compiler of C++.
# g++ compiles them to be observed, with the calls that its thread sanitizer makes before each access: the emulator
# answers them. Where the build asks for a sanitizer, that one looks on instead.
function(cuda_emulator_kernels)
  set(options -g1)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_DEBUG}" MATCHES "fsanitize")
    list(APPEND options -fsanitize=thread --param=tsan-instrument-func-entry-exit=0)
  endif()
  set_source_files_properties(${ARGN} PROPERTIES
    LANGUAGE CXX COMPILE_OPTIONS "${options}" SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()
