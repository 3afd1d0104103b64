// Float queries against signs by tables, the alternative to bit planes that `python -m bench binary` measures.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace nearfield::bench {

// The k largest inner products of a query with n vectors of signs, best first, and their numbers. Codes are packed as
// by numpy.packbits, ceil(dim / 8) bytes each. Every byte of a code looks up the sum of its eight signed elements in a
// table of 256.
void search_byte_tables(const float* query, size_t dim, const uint8_t* codes, size_t n, size_t k, uint32_t* ids,
                        float* scores);

}  // namespace nearfield::bench
