# The CUDA backend: penstock_cuda, from src/{ops,model,kv}/cuda. Owns how its sources are compiled, and
# which engine has it. Three ways:
#
#   OFF       not at all: the engine computes on the processor
#   EMULATED  by the C++ compiler, against emulator/ (penstock_simt), which executes kernels on the processor: for tests, and
#             for penstock-engine-emulated, an engine whose device is the emulator. penstock-engine itself stays without
#   ON        by nvcc, for the GPUs named by CMAKE_CUDA_ARCHITECTURES (default: those of this machine); penstock-engine has it
set(PENSTOCK_CUDA "" CACHE STRING "OFF, EMULATED or ON; empty: EMULATED where tests are built, else OFF")
set(PENSTOCK_CUBLASLT_ROOT "" CACHE PATH "With ON: a folder with include/cublasLt.h and lib/, e.g. of NVIDIA's wheel; empty: the toolkit's")
set(PENSTOCK_CUDA_MODE "${PENSTOCK_CUDA}")
if(PENSTOCK_CUDA_MODE STREQUAL "")
  set(PENSTOCK_CUDA_MODE OFF)
  if(PENSTOCK_TESTS AND TARGET penstock_serve)
    set(PENSTOCK_CUDA_MODE EMULATED)
  endif()
endif()
if(PENSTOCK_CUDA_MODE STREQUAL "EMULATED" AND NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/emulator/CMakeLists.txt)
  set(PENSTOCK_CUDA_MODE OFF)
endif()
message(STATUS "CUDA: ${PENSTOCK_CUDA_MODE}")
if(NOT PENSTOCK_CUDA_MODE)
  return()
endif()

file(GLOB CUDA_KERNEL_SOURCES CONFIGURE_DEPENDS src/ops/cuda/*.cu)
file(GLOB CUDA_HOST_SOURCES CONFIGURE_DEPENDS src/ops/cuda/*.cc src/model/cuda/*.cc src/kv/cuda/*.cc)

if(PENSTOCK_CUDA_MODE STREQUAL "EMULATED")
  add_subdirectory(emulator)
  # To CMake and to the compiler they are C++, whatever they are called. More than -O1 doubles the time it takes to compile them, and
  # makes tests hardly faster: most of theirs goes into switching threads.
  set(EMULATED_KERNEL_OPTIONS "-xc++;-Wno-unknown-pragmas;$<$<CONFIG:Release>:-O1>")
  set_source_files_properties(${CUDA_KERNEL_SOURCES} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${EMULATED_KERNEL_OPTIONS}")
  set(CUDA_RUNTIME penstock_simt)
else()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES native)
    if(CMAKE_VERSION VERSION_LESS 3.24)
      set(CMAKE_CUDA_ARCHITECTURES 80 90)  # the driver compiles the latter for what is newer
    endif()
  endif()
  enable_language(CUDA)
  # CMake before 3.26 does not know how nvcc is told.
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  find_package(CUDAToolkit REQUIRED)
  set(CUDA_RUNTIME CUDA::cudart_static)
endif()

# Rows have the same bits in every kernel because kernels name their FMAs themselves, here as on the processor. constexpr
# functions of headers that the processor's code shares run on the device too.
function(penstock_kernel_flags target)
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;--expt-relaxed-constexpr>")
endfunction()

add_library(penstock_cuda STATIC ${CUDA_KERNEL_SOURCES} ${CUDA_HOST_SOURCES})
set_target_properties(penstock_cuda PROPERTIES LINKER_LANGUAGE CXX)
if(PENSTOCK_CUDA_MODE STREQUAL "EMULATED")
  target_compile_options(penstock_cuda PRIVATE ${PENSTOCK_HOST_OPTIONS})
  target_precompile_headers(penstock_cuda PRIVATE ${PENSTOCK_STANDARD_HEADERS} src/ops/cuda/platform.h)
endif()
target_link_libraries(penstock_cuda PUBLIC penstock_model ${CUDA_RUNTIME})
if(PENSTOCK_CUDA_MODE STREQUAL "ON")
  penstock_kernel_flags(penstock_cuda)
  # Looked for anew each time: the folder may be another one.
  unset(PENSTOCK_CUBLASLT_INCLUDE CACHE)
  unset(PENSTOCK_CUBLASLT_LIBRARY CACHE)
  unset(PENSTOCK_CUBLASLT_WORKS CACHE)
  if(PENSTOCK_CUBLASLT_ROOT)
    find_path(PENSTOCK_CUBLASLT_INCLUDE cublasLt.h HINTS ${PENSTOCK_CUBLASLT_ROOT}/include NO_DEFAULT_PATH REQUIRED)
    # Wheels leave out the name that linkers ask for.
    find_library(PENSTOCK_CUBLASLT_LIBRARY NAMES cublasLt libcublasLt.so.13 libcublasLt.so.12
                 HINTS ${PENSTOCK_CUBLASLT_ROOT}/lib ${PENSTOCK_CUBLASLT_ROOT}/lib64 NO_DEFAULT_PATH REQUIRED)
    add_library(penstock_cublaslt SHARED IMPORTED)
    set_target_properties(penstock_cublaslt PROPERTIES IMPORTED_LOCATION ${PENSTOCK_CUBLASLT_LIBRARY}
                          INTERFACE_INCLUDE_DIRECTORIES ${PENSTOCK_CUBLASLT_INCLUDE})
    set(CUBLASLT penstock_cublaslt)
  elseif(TARGET CUDA::cublasLt)
    set(CUBLASLT CUDA::cublasLt)
  endif()
  if(CUBLASLT)
    # A library without its header, or of another CUDA than the toolkit's, is none: the engine does without it.
    include(CheckCXXSourceCompiles)
    set(CMAKE_REQUIRED_INCLUDES ${CUDAToolkit_INCLUDE_DIRS})
    set(CMAKE_REQUIRED_LIBRARIES ${CUBLASLT} CUDA::cudart_static)
    check_cxx_source_compiles("#include <cublasLt.h>
      int main() { cublasLtHandle_t handle; return cublasLtCreate(&handle); }" PENSTOCK_CUBLASLT_WORKS)
    unset(CMAKE_REQUIRED_INCLUDES)
    unset(CMAKE_REQUIRED_LIBRARIES)
  endif()
  if(CUBLASLT AND PENSTOCK_CUBLASLT_WORKS)
    message(STATUS "cuBLASLt: found")
    # Not of kernels, which know nothing of it and take minutes.
    target_compile_definitions(penstock_cuda PUBLIC $<$<COMPILE_LANGUAGE:CXX>:PENSTOCK_CUBLASLT>)
    target_link_libraries(penstock_cuda PUBLIC ${CUBLASLT})
  else()
    message(STATUS "cuBLASLt: not found, all products are computed by our kernels")
  endif()
endif()

# On the emulator the engine is one without the library, except for this test, which brings gemm.h's other half and the stand-in.
function(penstock_cublaslt_stand_in target)
  if(PENSTOCK_CUDA_MODE STREQUAL "EMULATED")
    target_sources(${target} PRIVATE src/ops/cuda/gemm.cc src/ops/cuda/cublaslt.cc)
    target_compile_definitions(${target} PRIVATE PENSTOCK_CUBLASLT)
    target_link_libraries(${target} PRIVATE penstock_simt_cublaslt)
  endif()
endfunction()

# --- Bench -----------------------------------------------------------------------------------------------------------
# On the emulator it is a test of itself: its times mean nothing there.
add_executable(cuda-bench EXCLUDE_FROM_ALL bench/cuda_bench.cc bench/cuda_cases.cc bench/cuda_ceilings.cu
               bench/cuda_handoff.cc bench/synthetic_model.cc bench/workload.cc)
set_target_properties(cuda-bench PROPERTIES LINKER_LANGUAGE CXX)
target_link_libraries(cuda-bench PRIVATE penstock_cuda)
if(PENSTOCK_CUDA_MODE STREQUAL "ON")
  penstock_kernel_flags(cuda-bench)
else()
  set_source_files_properties(bench/cuda_ceilings.cu PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${EMULATED_KERNEL_OPTIONS}")
endif()

# An engine with a device: main.cc asks this library for it.
if(PENSTOCK_CUDA_MODE STREQUAL "ON")
  set(CUDA_ENGINE penstock-engine)
else()
  set(CUDA_ENGINE penstock-engine-emulated)
  add_executable(${CUDA_ENGINE} src/serve/main.cc)
  if(NOT PENSTOCK_TESTS)
    set_target_properties(${CUDA_ENGINE} PROPERTIES EXCLUDE_FROM_ALL ON)
  endif()
  target_link_libraries(${CUDA_ENGINE} PRIVATE penstock_serve)
endif()
target_compile_definitions(${CUDA_ENGINE} PRIVATE PENSTOCK_WITH_CUDA)
target_link_libraries(${CUDA_ENGINE} PRIVATE penstock_cuda)
