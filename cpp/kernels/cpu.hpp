// What this CPU offers, as far as the kernels care.
#pragma once

#include <string>

namespace nearfield::kernels {

// Instruction-set levels; each needs all below it on its architecture.
enum class Level { scalar, avx2, avx512, avx512vnni, avx512icl, avx512bf16, neon, neondot };

// Whether this CPU (and its operating system, for wide registers) offers a level.
bool cpu_supports(Level level);

// The CPU's own name, or an empty string where it does not tell.
std::string cpu_name();

}  // namespace nearfield::kernels
