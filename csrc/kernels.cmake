# The kernels without their Python bindings, for the module and for the fuzz target alike.
# Sets NATIVE_SOURCES (compiled once), NATIVE_OBJECTS (compiled per instruction set) and NATIVE_DEFINITIONS.

set(KERNELS conv m2rnn_forward m2rnn_backward products matrix_chunk matrix_forward matrix_backward normalise step
    cells_forward cells_backward peak rank_one_forward rank_one_backward mru_forward mru_backward snap table)

set(NATIVE_SOURCES ${CMAKE_CURRENT_LIST_DIR}/kernels.cpp ${CMAKE_CURRENT_LIST_DIR}/memory.cpp)
set(NATIVE_OBJECTS)
if(NOT NATIVE_OPTIMIZATION)
  set(NATIVE_OPTIMIZATION -O2)  # the loops are unrolled by hand: -O3 takes a third longer and all but one gain nothing
endif()
set(NATIVE_DEFINITIONS)
list(TRANSFORM KERNELS PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
list(TRANSFORM KERNELS APPEND .cpp)

if(NOT NATIVE_ONE_SET)
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/matrix_chunk.cpp PROPERTIES COMPILE_OPTIONS -O3)
endif()

function(add_instruction_set name)
  add_library(kernels_${name} OBJECT ${KERNELS})
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
