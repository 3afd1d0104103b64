// Chooses the kernel table once per process; tests and benches ask for any level by name.
#pragma once

#include <string_view>
#include <vector>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {

// The table of this process: the best level that the CPU offers, or the one named by the environment variable
// NEARFIELD_ISA. Throws std::invalid_argument when that names a level that is unknown or not offered here.
const KernelTable& active();

// The table of one level, or null when it was not compiled in or this CPU does not offer it.
const KernelTable* by_name(std::string_view name);

// Names of the levels that run here, from "scalar" to the best.
std::vector<std::string_view> available();

// The level that filled each kernel slot of a table, as (slot, level) pairs.
struct SlotLevel {
    std::string_view slot, level;
};
std::vector<SlotLevel> slots(const KernelTable& table);

}  // namespace nearfield::kernels
