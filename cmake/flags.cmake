# Compiler flags: one baseline for everything, and the instruction sets of the kernel files by the suffix of their names.
include(CheckCXXSourceCompiles)

# Asked of the compiler, not of the host: right also when cross-compiling and for one slice of a macOS build.
check_cxx_source_compiles("
#if !defined(__x86_64__) && !defined(_M_X64)
#error
#endif
int main() { return 0; }" NEARFIELD_TARGET_IS_X86_64)
check_cxx_source_compiles("
#if !defined(__aarch64__) && !defined(_M_ARM64)
#error
#endif
int main() { return 0; }" NEARFIELD_TARGET_IS_AARCH64)

# Sets `result` to whether the compiler accepts all of the flags together.
function(nearfield_accepts result)
  list(JOIN ARGN " " CMAKE_REQUIRED_FLAGS)
  check_cxx_source_compiles("int main() { return 0; }" ${result})
  set(${result} ${${result}} PARENT_SCOPE)
endfunction()

# NEARFIELD_BASELINE: what every file may use. x86-64-v2 is Intel since Nehalem (2009) and AMD since Bulldozer (2011), armv8-a every 64-bit ARM.
# MSVC has no switch between SSE2 and AVX; its files stay at SSE2.
set(NEARFIELD_BASELINE)
if(NOT MSVC)
  if(NEARFIELD_TARGET_IS_X86_64)
    nearfield_accepts(NEARFIELD_ACCEPTS_X86_64_V2 -march=x86-64-v2)
    if(NEARFIELD_ACCEPTS_X86_64_V2)
      set(NEARFIELD_BASELINE -march=x86-64-v2)
    else()
      set(NEARFIELD_BASELINE -msse4.2 -mpopcnt -mcx16)
    endif()
  elseif(NEARFIELD_TARGET_IS_AARCH64)
    set(NEARFIELD_BASELINE -march=armv8-a)
  endif()
endif()

# NEARFIELD_FLAGS_<isa>: what a kernel file named *_<isa>.cpp gets on top. Each level contains the one before it.
# A file of another architecture, or of a level that the compiler does not know, is left out of the build.
set(NEARFIELD_ALL_ISAS avx2 avx512 avx512vnni avx512icl avx512bf16 neon neondot)
set(isas)
if(NEARFIELD_TARGET_IS_X86_64)
  set(isas avx2 avx512 avx512vnni avx512icl avx512bf16)
  if(MSVC)
    set(NEARFIELD_FLAGS_avx2 /arch:AVX2)
    set(NEARFIELD_FLAGS_avx512 /arch:AVX512)
    set(NEARFIELD_FLAGS_avx512vnni /arch:AVX512)
    set(NEARFIELD_FLAGS_avx512icl /arch:AVX512)
    set(NEARFIELD_FLAGS_avx512bf16 /arch:AVX512)
  else()
    set(NEARFIELD_FLAGS_avx2 -mavx2 -mfma -mf16c -mbmi -mbmi2 -mlzcnt -mpopcnt -mmovbe)
    set(NEARFIELD_FLAGS_avx512 ${NEARFIELD_FLAGS_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512cd)
    set(NEARFIELD_FLAGS_avx512vnni ${NEARFIELD_FLAGS_avx512} -mavx512vnni)
    set(NEARFIELD_FLAGS_avx512icl ${NEARFIELD_FLAGS_avx512vnni} -mavx512vbmi -mavx512vbmi2 -mavx512vpopcntdq
                                  -mavx512bitalg)
    set(NEARFIELD_FLAGS_avx512bf16 ${NEARFIELD_FLAGS_avx512icl} -mavx512bf16)
  endif()
elseif(NEARFIELD_TARGET_IS_AARCH64)
  set(isas neon neondot)
  set(NEARFIELD_FLAGS_neon)
  set(NEARFIELD_FLAGS_neondot)
  if(NOT MSVC)
    set(NEARFIELD_FLAGS_neondot -march=armv8.2-a+dotprod)
  endif()
endif()
set(NEARFIELD_ISAS)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  # GCC's own avx512fintrin.h warns of the deliberately undefined registers in it (GCC bug 105593).
  foreach(isa IN ITEMS avx512 avx512vnni avx512icl avx512bf16)
    list(APPEND NEARFIELD_FLAGS_${isa} -Wno-uninitialized -Wno-maybe-uninitialized)
  endforeach()
endif()
foreach(isa IN LISTS isas)
  string(TOUPPER ${isa} upper)
  nearfield_accepts(NEARFIELD_ACCEPTS_${upper} ${NEARFIELD_FLAGS_${isa}})
  if(NEARFIELD_ACCEPTS_${upper})
    list(APPEND NEARFIELD_ISAS ${isa})
  endif()
endforeach()
message(STATUS "nearfield: kernel levels scalar ${NEARFIELD_ISAS}")

# What every target of the project is compiled with. Contraction of a * b + c is off because it would make rounding depend
# on the compiler; kernels write their multiply-adds out as intrinsics.
function(nearfield_compile target optimisation)
  target_compile_features(${target} PRIVATE cxx_std_20)
  set_target_properties(
    ${target} PROPERTIES CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
                         POSITION_INDEPENDENT_CODE ON)
  target_compile_definitions(${target} PRIVATE "NEARFIELD_VERSION=\"${NEARFIELD_VERSION}\"")
  if(MSVC)
    target_compile_options(${target} PRIVATE /W4 /utf-8 /permissive- $<$<BOOL:${NEARFIELD_WERROR}>:/WX>)
    target_compile_definitions(${target} PRIVATE NOMINMAX _CRT_SECURE_NO_WARNINGS)
  else()
    target_compile_options(
      ${target} PRIVATE ${NEARFIELD_BASELINE} $<$<CONFIG:Release>:${optimisation}> -ffp-contract=off
                        -Wall -Wextra -Wpedantic -Wshadow $<$<BOOL:${NEARFIELD_WERROR}>:-Werror>)
  endif()
endfunction()

# Gives the kernel files of a SIMD level its flags; leaves out of `kept_sources` the files of levels that are not built.
function(nearfield_add_isa_flags kept_sources)
  set(kept)
  foreach(source IN LISTS ARGN)
    set(isa)
    if(source MATCHES "_([a-z0-9]+)\\.cpp$" AND CMAKE_MATCH_1 IN_LIST NEARFIELD_ALL_ISAS)
      set(isa ${CMAKE_MATCH_1})
    endif()
    if(NOT isa OR isa IN_LIST NEARFIELD_ISAS)
      list(APPEND kept ${source})
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${NEARFIELD_FLAGS_${isa}}")
    endif()
  endforeach()
  set(${kept_sources} ${kept} PARENT_SCOPE)
endfunction()
