# SPDX-License-Identifier: Apache-2.0
#
# Builds and runs a user's project against kla, in an empty folder, the way WAY says:
#   find_package      after an install into a fresh prefix
#   add_subdirectory  with the source folder
#   fetch_content     with FetchContent and SOURCE_DIR
#   cuda_component    kla::cuda alone, after an install into a fresh prefix
# cmake -D WAY=... -D SOURCE_DIR=... -D BINARY_DIR=... -D WORK_DIR=... -D COMPILER=...
#       -D GENERATOR=... -P consume.cmake

cmake_minimum_required(VERSION 3.22)

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "FAILED (${status}): ${ARGN}")
  endif()
endfunction()

file(REMOVE_RECURSE "${WORK_DIR}")
file(MAKE_DIRECTORY "${WORK_DIR}/project")
set(sources "${CMAKE_CURRENT_LIST_DIR}/main.cc" "${CMAKE_CURRENT_LIST_DIR}/second.cc"
            "${CMAKE_CURRENT_LIST_DIR}/layer.cc")
set(project "${CMAKE_CURRENT_LIST_DIR}/../${WAY}/CMakeLists.txt")
set(options -D KLA_SOURCE_DIR=${SOURCE_DIR})
set(optimise -O0)  # the targets are the same three times, and so are the warnings of -O2
if(WAY STREQUAL "find_package")
  set(optimise -O2)
endif()

if(WAY STREQUAL "cuda_component")
  file(WRITE "${WORK_DIR}/project/main.cc" "int main() {}\n")
  set(sources "")
endif()

if(WAY MATCHES "find_package|cuda_component")
  run(${CMAKE_COMMAND} --install "${BINARY_DIR}" --prefix "${WORK_DIR}/prefix")
  set(options -D CMAKE_PREFIX_PATH=${WORK_DIR}/prefix)
endif()

file(COPY ${project} ${sources} DESTINATION "${WORK_DIR}/project")
run(${CMAKE_COMMAND} -S "${WORK_DIR}/project" -B "${WORK_DIR}/build" -G "${GENERATOR}"
    -D CMAKE_CXX_COMPILER=${COMPILER} -D CMAKE_BUILD_TYPE=Release ${options}
    # A user's own rules: no warning of ours, nor a false alarm of the compiler's, may reach him.
    "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror -march=native" -D CMAKE_CXX_FLAGS_RELEASE=${optimise})
run(${CMAKE_COMMAND} --build "${WORK_DIR}/build")
run("${WORK_DIR}/build/app")
