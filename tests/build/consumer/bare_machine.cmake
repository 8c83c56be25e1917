# SPDX-License-Identifier: Apache-2.0
#
# A machine without GoogleTest, Google Benchmark, CLI11, fmt and nlohmann_json. The library installs
# there; the default configuration stops at each with one line that names the package to install and
# the option that does without.
# cmake -D SOURCE_DIR=... -D WORK_DIR=... -D COMPILER=... -D GENERATOR=... -P bare_machine.cmake

cmake_minimum_required(VERSION 3.22)
file(REMOVE_RECURSE "${WORK_DIR}")
set(configure ${CMAKE_COMMAND} -S "${SOURCE_DIR}" -G "${GENERATOR}"
              -D CMAKE_CXX_COMPILER=${COMPILER})
foreach(package GTest benchmark CLI11 fmt nlohmann_json)
  list(APPEND configure -D CMAKE_DISABLE_FIND_PACKAGE_${package}=ON)
endforeach()

# refused(<package> <option> <configure options>...)
function(refused package option)
  execute_process(COMMAND ${configure} -B "${WORK_DIR}/${option}" ${ARGN}
                  RESULT_VARIABLE status OUTPUT_QUIET ERROR_VARIABLE text)
  if(status EQUAL 0 OR NOT text MATCHES "[^\n]*apt install ${package}[^\n]*-D${option}=OFF")
    message(FATAL_ERROR "FAILED: no line names ${package} and ${option}:\n${text}")
  endif()
endfunction()
refused(libcli11-dev KLA_BUILD_EXAMPLES)
refused(libgtest-dev KLA_BUILD_TESTS -D KLA_BUILD_EXAMPLES=OFF)
refused(libbenchmark-dev KLA_BUILD_BENCHMARKS -D KLA_BUILD_EXAMPLES=OFF -D KLA_BUILD_TESTS=OFF)

execute_process(COMMAND ${configure} -B "${WORK_DIR}/build" -D KLA_BUILD_EXAMPLES=OFF
                        -D KLA_BUILD_TESTS=OFF -D KLA_BUILD_BENCHMARKS=OFF
                RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "FAILED: the library alone does not configure")
endif()
execute_process(COMMAND ${CMAKE_COMMAND} --install "${WORK_DIR}/build" --prefix "${WORK_DIR}/prefix"
                RESULT_VARIABLE status OUTPUT_QUIET)
if(NOT status EQUAL 0 OR NOT EXISTS "${WORK_DIR}/prefix/include/kla/kla.h" OR
   NOT EXISTS "${WORK_DIR}/prefix/share/cmake/kla/kla-config.cmake")
  message(FATAL_ERROR "FAILED: the library alone does not install")
endif()
