// Select kernels in plain C++: what every other level must agree with.
#include <math.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

void extremes(const float* values, size_t n, float* smallest, float* largest) {
    *smallest = INFINITY;
    *largest = -INFINITY;
    for (size_t i = 0; i < n; ++i) {
        *smallest = values[i] < *smallest ? values[i] : *smallest;
        *largest = values[i] > *largest ? values[i] : *largest;
    }
}

size_t count_at_most(const float* values, size_t n, float bound) {
    size_t count = 0;
    for (size_t i = 0; i < n; ++i) count += values[i] <= bound ? 1 : 0;
    return count;
}

#include "kernels/select_threshold.inc"

size_t keep(const float* values, const uint32_t* tags, size_t n, float bound, float* kept, uint32_t* kept_tags) {
    size_t count = 0;
    for (size_t i = 0; i < n; ++i) {  // without branches, which nobody could foresee
        const float value = values[i] == values[i] ? values[i] : -INFINITY;
        const uint32_t tag = tags ? tags[i] : static_cast<uint32_t>(i);
        kept[count] = value;
        kept_tags[count] = tag;
        count += value <= bound && tag != kNoTag ? 1 : 0;
    }
    return count;
}

}  // namespace

void fill_select_scalar(KernelTable* table) { table->select = {threshold, keep}; }

}  // namespace nearfield::kernels
