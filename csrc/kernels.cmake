# The kernels without their Python bindings, for the module and for the fuzz target alike. Sets NATIVE_ROOT (where
# includes start), NATIVE_SOURCES (compiled once), NATIVE_OBJECTS (compiled per instruction set) and NATIVE_DEFINITIONS.

set(NATIVE_ROOT ${CMAKE_CURRENT_LIST_DIR})
set(NATIVE_SOURCES common/memory.cpp dispatch/kernels.cpp)
set(KERNELS
    common/peak.cpp common/products.cpp
    cells/forward.cpp cells/backward.cpp
    conv/forward.cpp conv/backward.cpp conv/step.cpp
    m2rnn/forward.cpp m2rnn/backward.cpp m2rnn/step.cpp
    matrix/chunk.cpp matrix/forward.cpp matrix/backward.cpp matrix/normalise.cpp
    mru/forward.cpp mru/backward.cpp mru/step.cpp
    rank_one/forward.cpp rank_one/backward.cpp
    quotient/forward.cpp quotient/backward.cpp
    scan/forward.cpp scan/backward.cpp
    snap/forward.cpp snap/backward.cpp
    dispatch/table.cpp)
list(TRANSFORM NATIVE_SOURCES PREPEND ${NATIVE_ROOT}/)
list(TRANSFORM KERNELS PREPEND ${NATIVE_ROOT}/)

set(NATIVE_OBJECTS)
set(NATIVE_DEFINITIONS)
if(NOT NATIVE_OPTIMIZATION)
  set(NATIVE_OPTIMIZATION -O2)  # the loops are unrolled by hand: -O3 takes a third longer and all but one gain nothing
endif()
if(NOT NATIVE_ONE_SET)
  set_source_files_properties(${NATIVE_ROOT}/matrix/chunk.cpp PROPERTIES COMPILE_OPTIONS -O3)
endif()

function(add_instruction_set name)
  add_library(kernels_${name} OBJECT ${KERNELS})
  target_include_directories(kernels_${name} PRIVATE ${NATIVE_ROOT})
  target_compile_definitions(kernels_${name} PRIVATE MATRIXSTATE_ISA=${name})
  # Fused multiply-adds wherever they exist, and nothing else of -ffast-math: NaN must stay NaN.
  target_compile_options(kernels_${name} PRIVATE ${NATIVE_OPTIMIZATION} -ffp-contract=fast -fno-math-errno -fno-trapping-math
                                                 -Wall -Wextra -Wno-psabi -Wno-unknown-pragmas -Wno-maybe-uninitialized ${ARGN})
  target_link_libraries(kernels_${name} PRIVATE OpenMP::OpenMP_CXX)
  set(NATIVE_OBJECTS ${NATIVE_OBJECTS} kernels_${name} PARENT_SCOPE)
endfunction()

if(NATIVE_ONE_SET)  # flags of the only instruction set to build
  add_instruction_set(baseline ${NATIVE_ONE_SET})
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  # For old processors: built quickly rather than to be the fastest.
  add_instruction_set(baseline -march=x86-64-v2 -O1 -fstrict-aliasing -fexpensive-optimizations -DMATRIXSTATE_FALLBACK)
  add_instruction_set(x86_64_v3 -march=x86-64-v3)
  add_instruction_set(x86_64_v4 -march=x86-64-v4)
  set(NATIVE_DEFINITIONS MATRIXSTATE_X86)
else()
  add_instruction_set(baseline)
endif()
