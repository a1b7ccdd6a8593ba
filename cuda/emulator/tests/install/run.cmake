# Installs the build into a fresh prefix, copies the example out of the tree, and configures, builds and runs it there.
# Given: build_dir, generator, compiler, flags.

set(work ${build_dir}/install_consumer)
file(REMOVE_RECURSE ${work})

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

run(${CMAKE_COMMAND} --install ${build_dir} --prefix ${work}/prefix)
file(COPY ${CMAKE_CURRENT_LIST_DIR}/CMakeLists.txt ${CMAKE_CURRENT_LIST_DIR}/../../example/reduction.cu
  DESTINATION ${work}/source)
run(${CMAKE_COMMAND} -G ${generator} -S ${work}/source -B ${work}/build
  -D CMAKE_PREFIX_PATH=${work}/prefix -D CMAKE_CXX_COMPILER=${compiler} -D "CMAKE_CXX_FLAGS=${flags}")
run(${CMAKE_COMMAND} --build ${work}/build)
run(${work}/build/consumer)
