// Ids and rows: look-ups while rows are announced, published, given up and written again.
#include "storage/id_map.hpp"

#include <algorithm>
#include <numeric>
#include <random>

#include "check.hpp"

using namespace nearfield;

namespace {

std::vector<int64_t> shuffled(int64_t first, size_t n, unsigned seed) {
    std::vector<int64_t> ids(n);
    std::iota(ids.begin(), ids.end(), first);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(seed));
    return ids;
}

void check_found(const IdMap& map, const std::vector<int64_t>& ids, size_t first, size_t rows) {
    for (size_t i = 0; i < ids.size(); ++i) {
        CHECK(map.find(ids[i], {rows, 0, nullptr}, rows) == static_cast<uint32_t>(first + i));
        CHECK(map.id_of(first + i) == ids[i]);
    }
}

void test_identity() {
    IdMap map;
    const std::vector<int64_t> ids = {0, 1, 2}, next = {3, 9, 4};
    map.append(ids.data(), 0, 3);
    CHECK(!map.is_explicit() && map.nbytes(3) == 0);
    check_found(map, ids, 0, 3);
    CHECK(!map.find(3, {3, 0, nullptr}, 3) && !map.find(-1, {3, 0, nullptr}, 3));
    map.append(next.data(), 3, 3);
    CHECK(map.is_explicit());
    check_found(map, ids, 0, 3);
    check_found(map, next, 3, 6);
    CHECK(!map.find(9, {3, 0, nullptr}, 3) && !map.find(5, {6, 0, nullptr}, 6));
}

// However many rows are announced behind them, look-ups among the published rows find these and no others.
void test_announced_rows() {
    for (const size_t n : {10, 500, 5000}) {  // overlay or new permutation
        for (const size_t announced : {10, 500, 5000}) {
            IdMap map;
            const auto ids = shuffled(100'000, n, 1), dropped = shuffled(50'000, announced, 2);
            map.append(ids.data(), 0, n);
            map.append(dropped.data(), n, announced);
            check_found(map, ids, 0, n);
            for (const int64_t id : dropped) CHECK(!map.find(id, {n, 0, nullptr}, n));
            for (const size_t more : {10, 500, 5000}) {  // never published: the rows get other ids
                const auto instead = shuffled(200'000 + static_cast<int64_t>(more) * 10, more, 3);
                map.append(instead.data(), n, more);
                check_found(map, ids, 0, n + more);
                check_found(map, instead, n, n + more);
                for (const int64_t id : dropped) CHECK(!map.find(id, {n + more, 0, nullptr}, n + more));
            }
        }
    }
}

// An id moves from row to row; each view of the rows finds its own.
void test_moved_ids() {
    IdMap map;
    const auto ids = shuffled(0, 3000, 4);
    map.append(ids.data(), 0, 3000);
    LiveRows live{3000, 0, nullptr};
    const std::vector<int64_t> moving(ids.begin(), ids.begin() + 100);
    for (size_t turn = 0; turn < 20; ++turn) {
        std::vector<uint32_t> old;
        for (const int64_t id : moving) old.push_back(*map.find(id, live, live.count));
        map.append(moving.data(), live.count, moving.size());
        for (size_t i = 0; i < moving.size(); ++i) CHECK(map.find(moving[i], live, live.count) == old[i]);
        live.count += moving.size();
        live = live.without(old);
        for (size_t i = 0; i < moving.size(); ++i) {
            CHECK(map.find(moving[i], live, live.count) == live.count - moving.size() + i);
        }
        for (size_t row = 100; row < 3000; ++row) CHECK(map.find(ids[row], live, live.count) == row);
    }
}

}  // namespace

int main() {
    test_identity();
    test_announced_rows();
    test_moved_ids();
    return 0;
}
