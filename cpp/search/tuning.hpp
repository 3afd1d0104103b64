// Declared recall: which search parameters reach it, as measured on an index.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "codecs/codec.hpp"

namespace nearfield {

struct Tuning {
    struct Entry {
        double recall;      // that was asked for
        double measured;    // that was reached
        double oversample;  // the search parameters that reached it
        size_t probes = 0;  // 0 where there are no lists
    };
    size_t k = 0;              // results per query
    std::string queries;       // "given" or "held out"
    size_t n = 0;              // how many they were
    std::vector<Entry> table;  // by growing recall

    // What reaches a recall: the first entry that asked for as much.
    const Entry& entry_for(double recall) const {
        if (!(recall > 0 && recall <= 1)) {
            throw InvalidInput("recall: " + std::to_string(recall) + " given, expected more than 0 and at most 1");
        }
        if (table.empty()) throw InvalidInput("recall: the index has not been tuned; call tune first");
        const auto found = std::find_if(table.begin(), table.end(), [=](const Entry& e) { return e.recall >= recall; });
        if (found != table.end()) return *found;
        throw InvalidInput("recall: " + std::to_string(recall) + " given, the index was tuned for at most " +
                           std::to_string(table.back().recall));
    }
};

}  // namespace nearfield
