// Flat against brute force in float64.
#include "search/flat.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <new>
#include <numeric>
#include <random>
#include <set>
#include <utility>

#include "check.hpp"

namespace fs = std::filesystem;
using namespace nearfield;

namespace {

constexpr Metric kMetrics[] = {Metric::cosine, Metric::ip, Metric::l2};
const Run kAllThreads;
const Run kOneThread{1, nullptr};

// n vectors of float32, side by side.
struct Matrix {
    size_t n, dim;
    std::vector<float> values;

    const float* row(size_t i) const { return values.data() + i * dim; }
    float* row(size_t i) { return values.data() + i * dim; }
    Vectors view() const { return view(0, n); }
    Vectors view(size_t first, size_t count) const {
        return {reinterpret_cast<const std::byte*>(row(first)), kernels::kF32, count, dim, dim * sizeof(float)};
    }
};

Matrix random_matrix(size_t n, size_t dim, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    Matrix matrix{n, dim, std::vector<float>(n * dim)};
    for (float& value : matrix.values) value = normal(random);
    return matrix;
}

// Integers that every codec keeps exactly, with many equal scores.
Matrix small_integers(size_t n, size_t dim, unsigned seed) {
    std::mt19937 random(seed);
    Matrix matrix{n, dim, std::vector<float>(n * dim)};
    for (float& value : matrix.values) value = static_cast<float>(random() % 3);
    return matrix;
}

std::vector<int64_t> counted(size_t n, int64_t first = 0) {
    std::vector<int64_t> ids(n);
    std::iota(ids.begin(), ids.end(), first);
    return ids;
}

FlatOptions options_of(size_t dim, Metric metric, const std::string& codec = "f32", bool screen = true) {
    FlatOptions options;
    options.dim = dim;
    options.metric = metric;
    options.codec.name = codec;
    options.screen = screen;
    return options;
}

SearchOptions filtered(const std::shared_ptr<Filter>& filter) {
    SearchOptions options;
    options.filter = filter.get();
    return options;
}

SearchOptions oversampled(double factor) {
    SearchOptions options;
    options.oversample = factor;
    return options;
}

SearchOptions exhaustive() {
    SearchOptions options;
    options.exhaustive = true;
    return options;
}

// ---------------------------------------------------------------------------------------------------------------------
// The oracle
// ---------------------------------------------------------------------------------------------------------------------

double true_score(Metric metric, const float* query, const float* vector, size_t dim) {
    double dot = 0, query_squared = 0, squared = 0, distance = 0;
    for (size_t d = 0; d < dim; ++d) {
        const double q = query[d], x = vector[d];
        dot += q * x;
        query_squared += q * q;
        squared += x * x;
        distance += (q - x) * (q - x);
    }
    if (metric == Metric::ip) return dot;
    if (metric == Metric::l2) return std::sqrt(distance);
    return query_squared == 0 || squared == 0 ? 0 : dot / (std::sqrt(query_squared) * std::sqrt(squared));
}

// What the index should hold: vectors as its codec keeps them.
struct Oracle {
    Metric metric;
    size_t dim;
    std::map<int64_t, std::vector<float>> vectors;

    Oracle(const Index& index, const std::vector<int64_t>& ids)
        : metric(index.options().metric), dim(index.options().dim) {
        const std::vector<float> values = index.reconstruct(ids.data(), ids.size());
        for (size_t i = 0; i < ids.size(); ++i) vectors[ids[i]].assign(&values[i * dim], &values[i * dim] + dim);
    }

    // All (id, score), best first, ties by lower id.
    std::vector<std::pair<int64_t, double>> ranked(const float* query) const {
        std::vector<std::pair<int64_t, double>> all;
        for (const auto& [id, vector] : vectors) all.emplace_back(id, true_score(metric, query, vector.data(), dim));
        const double sign = metric == Metric::l2 ? 1 : -1;
        std::stable_sort(all.begin(), all.end(),
                         [&](const auto& a, const auto& b) { return sign * a.second < sign * b.second; });
        return all;
    }

    // Scores that float64 sums in another order may exchange.
    bool alike(double a, double b, const float* query) const {
        const std::vector<float> zero(dim);
        const double scale = metric == Metric::cosine ? 1 : std::max(std::abs(a), std::abs(b));
        const double length = metric == Metric::ip ? true_score(Metric::l2, query, zero.data(), dim) : 0;
        return std::abs(a - b) <= 1e-12 * (scale + length);
    }
};

bool rounds_to(float got, double expected) {
    return std::abs(static_cast<double>(got) - expected) <= 2e-7 * std::abs(expected) + 1e-9;
}

void check_search(const Oracle& oracle, const Matrix& queries, size_t k, const SearchResult& found) {
    CHECK(found.k == k && found.ids.size() == queries.n * k && found.scores.size() == queries.n * k);
    for (size_t q = 0; q < queries.n; ++q) {
        const auto expected = oracle.ranked(queries.row(q));
        const size_t hits = std::min(k, expected.size());
        CHECK(found.counts[q] == static_cast<int64_t>(hits));
        std::set<int64_t> seen;
        for (size_t i = 0; i < k; ++i) {
            const int64_t id = found.ids[q * k + i];
            const float score = found.scores[q * k + i];
            if (i >= hits) {
                CHECK(id == -1 && std::isnan(score));
                continue;
            }
            CHECK(seen.insert(id).second && oracle.vectors.count(id) == 1);
            CHECK(rounds_to(score, expected[i].second));
            if (id == expected[i].first) continue;
            const double own = true_score(oracle.metric, queries.row(q), oracle.vectors.at(id).data(), oracle.dim);
            CHECK(own != expected[i].second && oracle.alike(own, expected[i].second, queries.row(q)));
        }
    }
}

void check_range(const Oracle& oracle, const Matrix& queries, double radius, const RangeResult& found) {
    CHECK(found.offsets.size() == queries.n + 1 && found.offsets[0] == 0);
    CHECK(found.offsets.back() == static_cast<int64_t>(found.ids.size()) && found.ids.size() == found.scores.size());
    for (size_t q = 0; q < queries.n; ++q) {
        std::set<int64_t> inside(found.ids.begin() + found.offsets[q], found.ids.begin() + found.offsets[q + 1]);
        CHECK(inside.size() == static_cast<size_t>(found.offsets[q + 1] - found.offsets[q]));
        for (const auto& [id, score] : oracle.ranked(queries.row(q))) {
            if (rounds_to(static_cast<float>(radius), score)) continue;  // on the boundary: tested with integers
            CHECK((inside.count(id) == 1) == (oracle.metric == Metric::l2 ? score < radius : score > radius));
        }
        for (int64_t i = found.offsets[q]; i + 1 < found.offsets[q + 1]; ++i) {
            const float here = found.scores[static_cast<size_t>(i)], next = found.scores[static_cast<size_t>(i + 1)];
            CHECK(oracle.metric == Metric::l2 ? here <= next : here >= next);
        }
    }
}

void check_equal(const SearchResult& a, const SearchResult& b) {
    CHECK(a.ids == b.ids && a.counts == b.counts && a.scores.size() == b.scores.size());
    CHECK(a.scores.empty() || std::memcmp(a.scores.data(), b.scores.data(), a.scores.size() * sizeof(float)) == 0);
}

std::vector<std::byte> bytes_of(const Index& index) {
    std::vector<std::byte> bytes;
    index.save([&](const std::byte* data, size_t n) { bytes.insert(bytes.end(), data, data + n); });
    return bytes;
}

std::unique_ptr<Index> from_bytes(const std::vector<std::byte>& bytes) {
    return Index::load(Container::from_bytes(bytes));
}

// ---------------------------------------------------------------------------------------------------------------------
// Searching
// ---------------------------------------------------------------------------------------------------------------------

void test_every_codec() {
    for (const Metric metric : kMetrics) {
        for (const std::string codec : {"f32", "f16", "bf16", "int8", "uint8"}) {
            for (const size_t dim : {1, 3, 17, 96}) {
                for (const size_t n : {0, 1, 33, 300}) {
                    const Matrix vectors = codec == "uint8" ? small_integers(n, dim, 1) : random_matrix(n, dim, 1);
                    const Matrix queries = random_matrix(30, dim, 2);
                    Flat index(options_of(dim, metric, codec));
                    CHECK(index.add(vectors.view(), nullptr, "", {}, kAllThreads) == counted(n));
                    CHECK(index.size() == n && index.ids() == counted(n));
                    const Oracle oracle(index, counted(n));
                    for (const size_t k : {size_t{0}, size_t{1}, size_t{10}, n + 3}) {
                        check_search(oracle, queries, k, index.search(queries.view(), k, {}, kOneThread));
                    }
                    const double radius = metric == Metric::cosine ? 0.1 : std::sqrt(2.0 * static_cast<double>(dim));
                    check_range(oracle, queries, radius, index.range_search(queries.view(), radius, {}, kAllThreads));
                }
            }
        }
    }
}

// Vectors as the codec keeps them, from every element type and with rows apart.
void test_input_types() {
    const Matrix vectors = random_matrix(50, 20, 3);
    for (const auto& [codec, error] : std::map<std::string, double>{{"f32", 0}, {"f16", 0x1p-11}, {"bf16", 0x1p-8}}) {
        Flat index(options_of(20, Metric::l2, codec));
        index.add(vectors.view(), nullptr, "", {}, kAllThreads);
        const std::vector<int64_t> ids = counted(50);
        const std::vector<float> kept = index.reconstruct(ids.data(), 50);
        for (size_t i = 0; i < kept.size(); ++i) {
            CHECK(std::abs(kept[i] - vectors.values[i]) <= error * std::abs(vectors.values[i]));
        }
    }
    Flat rounded(options_of(20, Metric::l2, "int8"));
    rounded.add(vectors.view(), nullptr, "", {}, kAllThreads);
    for (int64_t id = 0; id < 50; ++id) {
        const float* given = vectors.row(static_cast<size_t>(id));
        const std::vector<float> kept = rounded.reconstruct(&id, 1);
        float largest = 0;
        for (size_t d = 0; d < 20; ++d) largest = std::max(largest, std::abs(given[d]));
        for (size_t d = 0; d < 20; ++d) CHECK(std::abs(kept[d] - given[d]) <= largest / 127 * 0.5001f);
    }

    constexpr size_t kStride = 32;                       // bytes, also for the 10 uint16
    const uint16_t halves[] = {0x3c00, 0xc000, 0x0001};  // 1, -2, 2^-24
    const uint16_t brains[] = {0x3f80, 0xc000, 0x0001};  // 1, -2, 2^-133
    std::vector<std::byte> buffer(3 * kStride + 1, std::byte{0xff});
    for (const auto type : {kernels::kF16, kernels::kBF16, kernels::kI8, kernels::kU8}) {
        std::byte* data = buffer.data() + 1;  // unaligned
        for (size_t row = 0; row < 3; ++row) {
            const uint16_t value = type == kernels::kF16 ? halves[row] : brains[row];
            const uint8_t small[] = {uint8_t(10 * row), 200};
            for (size_t d = 0; d < 10; ++d) {
                if (type == kernels::kF16 || type == kernels::kBF16) {
                    std::memcpy(data + row * kStride + 2 * d, &value, 2);
                } else {
                    data[row * kStride + d] = static_cast<std::byte>(small[d % 2]);
                }
            }
        }
        Flat index(options_of(10, Metric::ip));
        index.add({data, type, 3, 10, kStride}, nullptr, "", {}, kAllThreads);
        const std::vector<int64_t> ids = counted(3);
        const std::vector<float> kept = index.reconstruct(ids.data(), 3);
        const float tiny = type == kernels::kF16 ? 0x1p-24f : 0x1p-133f;
        const std::vector<float> expected = type == kernels::kI8   ? std::vector<float>{0, -56, 10, -56, 20, -56}
                                            : type == kernels::kU8 ? std::vector<float>{0, 200, 10, 200, 20, 200}
                                                                   : std::vector<float>{1, 1, -2, -2, tiny, tiny};
        for (size_t row = 0; row < 3; ++row) {
            for (size_t d = 0; d < 10; ++d) CHECK(kept[row * 10 + d] == expected[row * 2 + d % 2]);
        }
    }
}

// The same answer with and without the compact image, whatever the vectors look like.
void test_screen() {
    constexpr size_t kRows = 5003, kDim = 40;
    enum Data { kNormal, kOutliers, kFarFromOrigin, kTies, kHugeAndTiny };
    for (const Data data : {kNormal, kOutliers, kFarFromOrigin, kTies, kHugeAndTiny}) {
        Matrix vectors = data == kTies ? small_integers(kRows, kDim, 4) : random_matrix(kRows, kDim, 4);
        Matrix queries = data == kTies ? small_integers(25, kDim, 5) : random_matrix(25, kDim, 5);
        std::mt19937 random(6);
        for (size_t i = 0; i < kRows; ++i) {
            float* row = vectors.row(i);
            if (data == kOutliers && i % 50 == 0) std::for_each(row, row + kDim, [](float& x) { x *= 1e4f; });
            if (data == kFarFromOrigin) std::for_each(row, row + kDim, [](float& x) { x = x * 1e-3f + 100; });
            if (data == kHugeAndTiny) {
                const float scale = std::pow(10.0f, static_cast<float>(random() % 36) - 18);
                std::for_each(row, row + kDim, [scale](float& x) { x *= scale; });
                if (i % 97 == 0) std::fill_n(row, kDim, 0.0f);
            }
        }
        if (data == kFarFromOrigin) std::copy_n(vectors.row(100), 10 * kDim, queries.row(0));
        for (const Metric metric : kMetrics) {
            for (const std::string codec : {"f32", "f16", "bf16"}) {
                if (data == kHugeAndTiny && codec == "f16") continue;  // would not fit
                Flat index(options_of(kDim, metric, codec)), plain(options_of(kDim, metric, codec, false));
                index.add(vectors.view(0, 4000), nullptr, "", {},
                          kAllThreads);  // the screen begins with the second add
                index.add(vectors.view(4000, kRows - 4000), nullptr, "", {}, kAllThreads);
                plain.add(vectors.view(), nullptr, "", {}, kAllThreads);
                const SearchResult found = index.search(queries.view(), 10, {}, kAllThreads);
                CHECK(found.plan == "screened scan, " + codec);
                check_equal(found, plain.search(queries.view(), 10, {}, kAllThreads));
                const Oracle oracle(plain, counted(kRows));
                check_search(oracle, queries, 10, found);
                const double radius = found.scores[5];
                check_range(oracle, queries, radius, index.range_search(queries.view(), radius, {}, kAllThreads));
            }
        }
    }
}

// Results depend on neither the number of queries in a call nor the number of threads.
void test_batches_and_threads() {
    const Matrix vectors = random_matrix(70'000, 8, 7), queries = random_matrix(40, 8, 8);
    for (const Metric metric : kMetrics) {
        Flat index(options_of(8, metric));
        index.add(vectors.view(), nullptr, "", {}, kAllThreads);
        const SearchResult all = index.search(queries.view(), 7, {}, kOneThread);
        check_equal(all, index.search(queries.view(), 7, {}, {3, nullptr}));
        for (size_t q = 0; q < queries.n; ++q) {
            const SearchResult one = index.search(queries.view(q, 1), 7, {}, {1 + q % 4, nullptr});
            CHECK(std::equal(one.ids.begin(), one.ids.end(), all.ids.begin() + static_cast<std::ptrdiff_t>(q * 7)));
            CHECK(std::memcmp(one.scores.data(), &all.scores[q * 7], 7 * sizeof(float)) == 0);
        }
        Flat again(options_of(8, metric));
        again.add(vectors.view(), nullptr, "", {}, kOneThread);
        CHECK(bytes_of(again) == bytes_of(index));
    }
}

void test_range_boundary() {
    const Matrix vectors = small_integers(5000, 4, 9);
    for (const Metric metric : {Metric::ip, Metric::l2}) {
        for (const std::string codec : {"f32", "uint8"}) {
            Flat index(options_of(4, metric, codec));
            index.add(vectors.view(), nullptr, "", {}, kAllThreads);
            for (const double radius : {0.0, 1.0, 2.0, 100.0}) {
                const RangeResult found = index.range_search(vectors.view(0, 1), radius, {}, kAllThreads);
                size_t inside = 0;
                for (size_t i = 0; i < vectors.n; ++i) {
                    const double score = true_score(metric, vectors.row(0), vectors.row(i), 4);
                    inside += metric == Metric::l2 ? score <= radius : score >= radius;
                }
                CHECK(found.ids.size() == inside);
            }
            const double nan = std::numeric_limits<double>::quiet_NaN();
            CHECK_THROWS(InvalidInput, "radius", index.range_search(vectors.view(0, 1), nan, {}, kAllThreads));
        }
    }
}

void test_rerank() {
    const Matrix vectors = random_matrix(2000, 32, 10), queries = random_matrix(20, 32, 11);
    for (const Metric metric : kMetrics) {
        FlatOptions options = options_of(32, metric, "int8");
        options.rerank.name = "f32";
        Flat index(options);
        index.add(vectors.view(), nullptr, "", {}, kAllThreads);
        const Oracle oracle(index, counted(2000));
        CHECK(oracle.vectors.at(5) == std::vector<float>(vectors.row(5), vectors.row(6)));
        check_search(oracle, queries, 10, index.search(queries.view(), 10, oversampled(200.0), kAllThreads));
        check_search(oracle, queries, 10, index.search(queries.view(), 10, exhaustive(), kAllThreads));
        const SearchResult few = index.search(queries.view(), 10, oversampled(1.0), kAllThreads);
        CHECK(few.plan == "scan, int8, rerank f32");
        for (size_t i = 0; i < few.ids.size(); ++i) {
            const auto& vector = oracle.vectors.at(few.ids[i]);
            CHECK(rounds_to(few.scores[i], true_score(metric, queries.row(i / 10), vector.data(), 32)));
        }
        CHECK_THROWS(InvalidInput, "oversample", index.search(queries.view(), 10, oversampled(0.5), kAllThreads));
    }
}

void test_score() {
    const Matrix vectors = random_matrix(200, 12, 12), queries = random_matrix(3, 12, 13);
    for (const Metric metric : kMetrics) {
        Flat index(options_of(12, metric));
        const std::vector<int64_t> ids = counted(200, 1000);
        index.add(vectors.view(), ids.data(), "", {}, kAllThreads);
        const std::vector<int64_t> wanted = {1005, -1, 1199, 1005, 1000, 1001};
        const std::vector<float> same = index.score(queries.view(), wanted.data(), 6, false, {}, kAllThreads);
        const std::vector<float> own = index.score(queries.view(), wanted.data(), 2, true, {}, kAllThreads);
        CHECK(same.size() == 18 && own.size() == 6);
        for (size_t q = 0; q < 3; ++q) {
            for (size_t i = 0; i < 6; ++i) {
                const auto row = static_cast<size_t>(wanted[i] - 1000);
                CHECK(wanted[i] == -1
                          ? std::isnan(same[q * 6 + i])
                          : rounds_to(same[q * 6 + i], true_score(metric, queries.row(q), vectors.row(row), 12)));
                if (i / 2 != q) continue;
                CHECK(wanted[i] == -1 ? std::isnan(own[i]) : own[i] == same[q * 6 + i]);
            }
        }
        const int64_t unknown = 1200;
        CHECK_THROWS(IdError, "1200", index.score(queries.view(), &unknown, 1, false, {}, kAllThreads));
        CHECK_THROWS(IdError, "1200", index.reconstruct(&unknown, 1));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Filters
// ---------------------------------------------------------------------------------------------------------------------

void test_filters() {
    constexpr size_t kRows = 6000;
    const Matrix vectors = random_matrix(kRows, 24, 14), queries = random_matrix(15, 24, 15);
    std::vector<int64_t> ids(kRows);
    for (size_t i = 0; i < kRows; ++i) ids[i] = static_cast<int64_t>((i * 7919) % kRows * 3);
    for (const Metric metric : kMetrics) {
        Flat index(options_of(24, metric));
        index.add(vectors.view(), ids.data(), "", {}, kAllThreads);
        const Oracle everything(index, ids);
        for (const size_t every : {size_t{1}, size_t{2}, size_t{10}, size_t{100}, kRows - 1, kRows + 1}) {
            const auto mask = std::make_unique<bool[]>(kRows);
            std::vector<int64_t> allowed{3 * kRows + 1, 3 * kRows + 2};  // unknown
            Oracle oracle = everything;
            for (size_t i = 0; i < kRows; ++i) {
                mask[i] = i % every == every - 1;
                if (mask[i]) allowed.push_back(ids[i]);
                if (!mask[i]) oracle.vectors.erase(ids[i]);
            }
            const auto by_mask = index.filter_of_mask(mask.get(), kRows);
            const auto by_ids = index.filter_of_ids(allowed.data(), allowed.size());
            CHECK(by_mask->count() == oracle.vectors.size() && by_ids->count() == oracle.vectors.size());
            const SearchResult found = index.search(queries.view(), 12, filtered(by_mask), kAllThreads);
            check_search(oracle, queries, 12, found);
            check_equal(found, index.search(queries.view(), 12, filtered(by_ids), kOneThread));
            const double radius = everything.ranked(queries.row(0))[500].second;
            check_range(oracle, queries, radius,
                        index.range_search(queries.view(), radius, filtered(by_ids), kAllThreads));
        }
        const auto mask = std::make_unique<bool[]>(kRows);
        CHECK_THROWS(InvalidInput, "5999", index.filter_of_mask(mask.get(), kRows - 1));
    }
}

// A prepared filter keeps meaning its ids.
void test_filter_of_changed_index() {
    const Matrix vectors = random_matrix(40, 6, 16), queries = random_matrix(4, 6, 17);
    Flat index(options_of(6, Metric::l2));
    index.add(vectors.view(0, 30), nullptr, "", {}, kAllThreads);
    const std::vector<int64_t> allowed = {3, 5, 7};
    const auto filter = index.filter_of_ids(allowed.data(), 3);
    const auto check = [&](const std::vector<int64_t>& left) {
        check_search(Oracle(index, left), queries, 5, index.search(queries.view(), 5, filtered(filter), kAllThreads));
    };
    check({3, 5, 7});
    index.update(&allowed[0], vectors.view(30, 1), kAllThreads);
    check({3, 5, 7});
    index.remove(&allowed[1], 1);
    check({3, 7});
    index.add(vectors.view(31, 1), &allowed[1], "", {}, kAllThreads);
    check({3, 5, 7});
    (void)bytes_of(index);  // saving moves rows
    check({3, 5, 7});

    // Used on another index it means the same ids there, also when that index took the first one's place in memory.
    alignas(Flat) std::byte place[sizeof(Flat)];
    auto* first = new (place) Flat(options_of(6, Metric::l2));
    first->add(vectors.view(0, 30), nullptr, "", {}, kAllThreads);
    const auto old = first->filter_of_ids(allowed.data(), 3);
    first->~Flat();
    auto* second = new (place) Flat(options_of(6, Metric::l2));
    std::vector<int64_t> reversed = counted(30);
    std::reverse(reversed.begin(), reversed.end());
    second->add(vectors.view(0, 30), reversed.data(), "", {}, kAllThreads);
    check_search(Oracle(*second, allowed), queries, 5, second->search(queries.view(), 5, filtered(old), kAllThreads));
    second->~Flat();
}

// ---------------------------------------------------------------------------------------------------------------------
// Changing
// ---------------------------------------------------------------------------------------------------------------------

void test_changes() {
    constexpr size_t kRows = 6000, kDim = 16;
    const Matrix vectors = random_matrix(2 * kRows, kDim, 18), queries = random_matrix(10, kDim, 19);
    for (const std::string codec : {"f32", "int8"}) {
        FlatOptions options = options_of(kDim, Metric::l2, codec);
        if (codec == "int8") options.rerank.name = "f16";
        Flat index(options);
        std::map<int64_t, size_t> rows;  // of `vectors`, by id
        const auto check = [&] {
            std::vector<int64_t> ids = index.ids();
            std::sort(ids.begin(), ids.end());
            CHECK(ids.size() == rows.size() && index.size() == rows.size());
            CHECK(std::equal(ids.begin(), ids.end(), rows.begin(),
                             [](int64_t id, const auto& e) { return id == e.first; }));
            const Oracle oracle(index, ids);
            for (const auto& [id, row] : rows) {
                CHECK(index.contains(id));
                const auto& kept = oracle.vectors.at(id);
                for (size_t d = 0; d < kDim; ++d) CHECK(std::abs(kept[d] - vectors.row(row)[d]) < 3e-3);
            }
            check_search(oracle, queries, 9, index.search(queries.view(), 9, exhaustive(), kAllThreads));
        };
        const auto add = [&](size_t first, size_t n, const std::vector<int64_t>& ids) {
            const auto given =
                index.add(vectors.view(first, n), ids.empty() ? nullptr : ids.data(), "", {}, kAllThreads);
            CHECK(ids.empty() || given == ids);
            for (size_t i = 0; i < n; ++i) rows[given[i]] = first + i;
            return given;
        };
        const auto update = [&](const std::vector<int64_t>& ids, size_t first) {
            index.update(ids.data(), vectors.view(first, ids.size()), kAllThreads);
            for (size_t i = 0; i < ids.size(); ++i) rows[ids[i]] = first + i;
        };
        const auto remove = [&](const std::vector<int64_t>& ids) {
            index.remove(ids.data(), ids.size());
            for (const int64_t id : ids) rows.erase(id);
        };
        add(0, 4500, {});
        check();
        remove(counted(100, 50));
        update(counted(100, 400), 6000);
        check();
        CHECK(add(4500, 100, {}) == counted(100, 4500));  // automatic ids still equal their row, plus 100
        add(4600, 50, counted(50, 50));                   // ids that were removed come back
        update(counted(50, 50), 6200);  // twice in a row, with ids that look-ups know from the overlay
        update(counted(50, 50), 6300);
        check();
        remove(counted(1400, 1000));  // a quarter is dead: the rows move
        check();
        const int64_t far = 1'000'000;
        add(5000, 1, {far});
        CHECK(add(5001, 2, {}) == counted(2, far + 1));
        remove({far + 2});
        CHECK(add(5003, 1, {}) == counted(1, far + 3));  // no id is given twice
        update(counted(500, 3000), 7000);
        check();
        const auto bytes = bytes_of(index);
        check();
        CHECK(bytes_of(index) == bytes);
        remove(index.ids());
        check();
        CHECK(add(0, 3, {}) == counted(3, far + 4));
        check();
    }
    Flat last(options_of(kDim, Metric::l2));
    const int64_t largest = std::numeric_limits<int64_t>::max();
    last.add(vectors.view(0, 1), &largest, "", {}, kAllThreads);
    CHECK(last.contains(largest));
    CHECK_THROWS(InvalidInput, "none left", last.add(vectors.view(1, 1), nullptr, "", {}, kAllThreads));
}

// After an error the index is as it was.
void test_errors() {
    const Matrix vectors = random_matrix(5000, 10, 20);
    Flat index(options_of(10, Metric::cosine));
    index.add(vectors.view(0, 4090), nullptr, "", {}, kAllThreads);
    const auto before = bytes_of(index);
    Matrix bad = random_matrix(700, 10, 21);
    bad.row(600)[3] = std::numeric_limits<float>::quiet_NaN();
    CHECK_THROWS(InvalidInput, "row 600", index.add(bad.view(), nullptr, "", {}, kAllThreads));
    CHECK_THROWS(InvalidInput, "row 600", index.update(counted(700).data(), bad.view(), kAllThreads));
    bad.row(600)[3] = -std::numeric_limits<float>::infinity();
    CHECK_THROWS(InvalidInput, "row 600", index.add(bad.view(), nullptr, "", {}, kAllThreads));
    CHECK_THROWS(InvalidInput, "row 600", index.search(bad.view(), 3, {}, kAllThreads));
    const Matrix wide = random_matrix(1, 11, 22);
    CHECK_THROWS(InvalidInput, "11", index.add(wide.view(), nullptr, "", {}, kAllThreads));
    CHECK_THROWS(InvalidInput, "11", index.search(wide.view(), 3, {}, kAllThreads));
    const std::vector<int64_t> twice = {5000, 6000, 5000}, negative = {5000, -1, 6000}, present = {5000, 17, 6000};
    CHECK_THROWS(InvalidInput, "5000", index.add(vectors.view(0, 3), twice.data(), "", {}, kAllThreads));
    CHECK_THROWS(InvalidInput, "-1", index.add(vectors.view(0, 3), negative.data(), "", {}, kAllThreads));
    CHECK_THROWS(IdError, "17", index.add(vectors.view(0, 3), present.data(), "", {}, kAllThreads));
    CHECK_THROWS(IdError, "5000", index.update(present.data(), vectors.view(0, 3), kAllThreads));
    CHECK_THROWS(IdError, "5000", index.remove(present.data(), 3));
    CHECK_THROWS(InvalidInput, "5000", index.remove(twice.data(), 3));
    // Stopped by its caller while the screen is being made.
    const Run stopping{1, [](double share) { return share < 0.5; }};
    Vectors many = vectors.view(0, 1);
    many.n = 3'000'000;
    many.stride = 0;  // the same vector again and again
    bool stopped = false;
    try {
        index.add(many, nullptr, "", {}, stopping);
    } catch (const Interrupted&) {
        stopped = true;
    }
    CHECK(stopped);
    CHECK(index.size() == 4090 && bytes_of(index) == before);

    // What is added after failures is what would have been added without them.
    Flat fresh(options_of(10, Metric::cosine));
    fresh.add(vectors.view(0, 4090), nullptr, "", {}, kAllThreads);
    for (Flat* each : {&index, &fresh}) each->add(vectors.view(4090, 910), nullptr, "", {}, kAllThreads);
    CHECK(bytes_of(index) == bytes_of(fresh));

    Flat bytes(options_of(10, Metric::l2, "uint8"));
    CHECK_THROWS(InvalidInput, "row 0", bytes.add(vectors.view(0, 3), nullptr, "", {}, kAllThreads));
    CHECK(bytes.size() == 0);
    CHECK_THROWS(InvalidInput, "dim", Flat(options_of(0, Metric::l2)));
    CHECK_THROWS(InvalidInput, "dim", Flat(options_of(65536, Metric::l2)));
    CHECK_THROWS(InvalidInput, "qp", Flat(options_of(4, Metric::l2, "qp")));
}

// ---------------------------------------------------------------------------------------------------------------------
// Packed bits, signs and versions
// ---------------------------------------------------------------------------------------------------------------------

// n rows of packed bits, their padding ones: it must never count.
struct Bits {
    size_t n, dim, bytes;
    std::vector<uint8_t> values;

    const uint8_t* row(size_t i) const { return values.data() + i * bytes; }
    bool at(size_t i, size_t d) const { return (row(i)[d / 8] >> (7 - d % 8) & 1) != 0; }
    Vectors view(size_t first, size_t count) const {
        return {reinterpret_cast<const std::byte*>(row(first)), kernels::kBits, count, dim, bytes};
    }
    Vectors view() const { return view(0, n); }
};

// Rows around one centre, so that many of them are equally far from anything.
Bits random_bits(size_t n, size_t dim, unsigned seed) {
    std::mt19937 random(seed);
    Bits bits{n, dim, (dim + 7) / 8, {}};
    std::vector<uint8_t> center(bits.bytes);
    for (uint8_t& byte : center) byte = static_cast<uint8_t>(random());
    for (size_t i = 0; i < n; ++i) {
        bits.values.insert(bits.values.end(), center.begin(), center.end());
        for (size_t flip = random() % 9; flip > 0; --flip) {
            const size_t d = random() % dim;
            bits.values[i * bits.bytes + d / 8] ^= static_cast<uint8_t>(0x80u >> d % 8);
        }
        if (dim % 8 != 0) bits.values.back() |= static_cast<uint8_t>(0xffu >> dim % 8);
    }
    return bits;
}

double bit_score(Metric metric, const Bits& a, size_t i, const Bits& b, size_t j) {
    size_t both = 0, either = 0;
    for (size_t d = 0; d < a.dim; ++d) {
        both += a.at(i, d) && b.at(j, d) ? 1 : 0;
        either += a.at(i, d) || b.at(j, d) ? 1 : 0;
    }
    if (metric == Metric::hamming) return static_cast<double>(either - both);
    return either == 0 ? 1 : static_cast<double>(both) / static_cast<double>(either);
}

// All (distance, id), best first; distances are scores with the sign that makes less better.
std::vector<std::pair<double, int64_t>> ranked_bits(Metric metric, const Bits& queries, size_t q, const Bits& bits,
                                                    const std::vector<int64_t>& ids) {
    std::vector<std::pair<double, int64_t>> all;
    const double sign = metric == Metric::hamming ? 1 : -1;
    for (size_t i = 0; i < bits.n; ++i) all.emplace_back(sign * bit_score(metric, queries, q, bits, i), ids[i]);
    std::sort(all.begin(), all.end());
    return all;
}

FlatOptions bit_options(size_t dim, Metric metric) { return options_of(dim, metric, ""); }

void test_bits() {
    for (const Metric metric : {Metric::hamming, Metric::jaccard}) {
        for (const size_t dim : {1, 7, 8, 9, 64, 65, 100, 1000, 10'000}) {
            const size_t n = dim > 1000 ? 60 : 700;
            const Bits bits = random_bits(n, dim, 30), queries = random_bits(9, dim, 31);
            std::vector<int64_t> ids = counted(n);
            for (const bool shuffled : {false, true}) {
                if (shuffled) std::shuffle(ids.begin(), ids.end(), std::mt19937(32));
                Flat index(bit_options(dim, metric));
                index.add(bits.view(), shuffled ? ids.data() : nullptr, "", {}, kAllThreads);
                CHECK(index.options().codec.name == "bits" && index.code_bytes() == bits.bytes);
                for (const size_t width : {1, 2, 3, 5, 9}) {
                    for (const size_t k : {size_t{1}, size_t{10}, n, n + 3}) {
                        const SearchResult found =
                            index.search(queries.view(0, width), k, {}, {1 + width % 3, nullptr});
                        for (size_t q = 0; q < width; ++q) {
                            const auto expected = ranked_bits(metric, queries, q, bits, ids);
                            CHECK(found.counts[q] == static_cast<int64_t>(std::min(k, n)));
                            for (size_t i = 0; i < std::min(k, n); ++i) {
                                CHECK(found.ids[q * k + i] == expected[i].second);
                                CHECK(found.scores[q * k + i] == static_cast<float>(std::abs(expected[i].first)));
                            }
                        }
                    }
                }
                const std::vector<uint8_t> codes = index.codes(ids.data(), n);
                for (size_t i = 0; i < n; ++i) {
                    for (size_t d = 0; d < bits.bytes * 8; ++d) {
                        const bool one = (codes[i * bits.bytes + d / 8] >> (7 - d % 8) & 1) != 0;
                        CHECK(one == (d < dim && bits.at(i, d)));
                    }
                }
                constexpr double kInfinity = std::numeric_limits<double>::infinity();
                const double sign = metric == Metric::hamming ? 1 : -1;
                for (const double far : {1e30, kInfinity}) {
                    for (const size_t width : {1, 9}) {
                        const Vectors some = queries.view(0, width);
                        CHECK(index.range_search(some, sign * far, {}, kOneThread).ids.size() == n * width);
                        CHECK(index.range_search(some, -sign * far, {}, kOneThread).ids.empty());
                    }
                }
                const auto expected = ranked_bits(metric, queries, 0, bits, ids);
                for (const size_t last : {size_t{0}, n / 2}) {
                    const auto radius = static_cast<double>(static_cast<float>(std::abs(expected[last].first)));
                    const RangeResult inside = index.range_search(queries.view(0, 1), radius, {}, kAllThreads);
                    const auto within = static_cast<size_t>(std::count_if(
                        expected.begin(), expected.end(), [&](auto e) { return e.first <= expected[last].first; }));
                    CHECK(inside.ids.size() == within);
                    for (size_t i = 0; i < within; ++i) CHECK(inside.ids[i] == expected[i].second);
                }
            }
        }
    }
    Flat index(bit_options(20, Metric::hamming));
    index.add(random_bits(30, 20, 33).view(), nullptr, "", {}, kAllThreads);
    const auto before = bytes_of(index);
    CHECK_THROWS(InvalidInput, "numbers", index.add(random_matrix(3, 20, 1).view(), nullptr, "", {}, kAllThreads));
    CHECK_THROWS(InvalidInput, "4 bytes", index.add(random_bits(3, 30, 1).view(), nullptr, "", {}, kAllThreads));
    CHECK_THROWS(InvalidInput, "18 bits", index.search(random_bits(3, 18, 1).view(), 1, {}, kAllThreads));
    CHECK_THROWS(InvalidInput, "radius",
                 index.range_search(random_bits(1, 20, 1).view(), std::nan(""), {}, kOneThread));
    CHECK_THROWS(InvalidInput, "bits", index.train(random_bits(3, 20, 1).view(), "", {}, {}));
    CHECK(bytes_of(index) == before);
    Flat numbers(options_of(20, Metric::l2));
    CHECK_THROWS(InvalidInput, "numbers", numbers.add(random_bits(3, 20, 1).view(), nullptr, "", {}, kAllThreads));
    CHECK_THROWS(InvalidInput, "dim", Flat(bit_options(0, Metric::hamming)));
    CHECK_THROWS(InvalidInput, "1048577", Flat(bit_options(1'048'577, Metric::jaccard)));
    CHECK_THROWS(InvalidInput, "f32", Flat(options_of(8, Metric::hamming, "f32")));
    CHECK_THROWS(InvalidInput, "bits", Flat(options_of(8, Metric::ip, "bits")));
}

SearchOptions of_version(const std::string& name) {
    SearchOptions options;
    options.version = name;
    return options;
}

// Two models side by side: a search of one is a search of an index which holds nothing else.
void test_versions() {
    constexpr size_t kDim = 24;
    const Matrix vectors = random_matrix(6000, kDim, 40), queries = random_matrix(7, kDim, 41);
    for (const std::string codec : {"f32", "sign", "recurrent_binary"}) {
        for (const bool rerank : {false, true}) {
            FlatOptions options = options_of(kDim, Metric::l2, codec);
            if (codec == "sign") options.codec.parameters = {{"threshold", "median"}, {"query", "float"}};
            if (codec == "recurrent_binary") options.codec.parameters["bits"] = "3";
            if (rerank) options.rerank.name = "f16";
            Flat index(options), first(options), second(options);
            const auto add = [&](Flat& alone, const std::string& version, size_t from, size_t n) {
                const std::vector<int64_t> ids = counted(n, static_cast<int64_t>(from));
                index.add(vectors.view(from, n), ids.data(), version, {}, kAllThreads);
                alone.add(vectors.view(from, n), ids.data(), "", {}, kOneThread);
            };
            const auto check = [&](const Index& each) {
                const auto versions = each.versions();
                CHECK(versions.size() == 2 && versions[0].first == "first" && versions[1].first == "second");
                CHECK(versions[0].second == first.size() && versions[1].second == second.size());
                for (const auto& [name, alone] :
                     {std::pair<std::string, Flat*>{"first", &first}, {"second", &second}}) {
                    const SearchOptions only = of_version(name);
                    check_equal(each.search(queries.view(), 10, only, kAllThreads),
                                alone->search(queries.view(), 10, {}, kOneThread));
                    check_equal(each.search(queries.view(0, 1), 5000, only, kAllThreads),
                                alone->search(queries.view(0, 1), 5000, {}, kOneThread));
                    const RangeResult near = each.range_search(queries.view(), 6, only, kAllThreads);
                    const RangeResult expected = alone->range_search(queries.view(), 6, {}, kOneThread);
                    CHECK(near.ids == expected.ids && near.offsets == expected.offsets &&
                          near.scores == expected.scores);
                    const std::vector<int64_t> ids = alone->ids();
                    CHECK(each.score(queries.view(), ids.data(), ids.size(), false, name, kAllThreads) ==
                          alone->score(queries.view(), ids.data(), ids.size(), false, {}, kOneThread));
                    CHECK(each.codes(ids.data(), ids.size()) == alone->codes(ids.data(), ids.size()));
                }
                CHECK_THROWS(InvalidInput, "\"third\"",
                             each.search(queries.view(), 1, of_version("third"), kOneThread));
            };
            add(first, "first", 0, 1000);
            add(second, "second", 1000, 1500);
            add(first, "first", 2500, 1500);
            check(index);
            for (Flat* each : {&index, &first}) each->remove(counted(900).data(), 900);
            for (Flat* each : {&index, &second}) each->remove(counted(600, 1700).data(), 600);
            const std::vector<int64_t> moved = counted(200, 1100), mixed = {950, 1100};
            for (Flat* each : {&index, &second}) each->update(moved.data(), vectors.view(5000, 200), kAllThreads);
            CHECK_THROWS(InvalidInput, "several versions", index.update(mixed.data(), vectors.view(0, 2), kAllThreads));
            check(index);
            check(*from_bytes(bytes_of(index)));
            CHECK(bytes_of(*from_bytes(bytes_of(index))) == bytes_of(index));
        }
    }
}

// After an error nothing has been learned.
void test_training() {
    FlatOptions options = options_of(10, Metric::cosine, "sign");
    options.codec.parameters = {{"threshold", "mean"}, {"rotation", "learned"}};
    Flat index(options);
    const Matrix vectors = random_matrix(500, 10, 50);
    Matrix bad = vectors;
    bad.row(400)[3] = std::numeric_limits<float>::quiet_NaN();
    Learned identity;
    identity["rotation"].assign(100, 0);
    for (size_t d = 0; d < 10; ++d) identity["rotation"][d * 11] = 1;
    const auto before = bytes_of(index);
    CHECK(index.untrained("") && index.untrained("a"));
    CHECK_THROWS(InvalidInput, "rotation", index.train(vectors.view(), "a", {}, {}));
    CHECK_THROWS(InvalidInput, "rotation", index.add(vectors.view(), nullptr, "a", {}, kAllThreads));
    CHECK_THROWS(InvalidInput, "row 400", index.train(bad.view(), "a", identity, {}));
    CHECK_THROWS(InvalidInput, "row 400", index.add(bad.view(), nullptr, "a", identity, kAllThreads));
    CHECK_THROWS(InvalidInput, "none", index.train(vectors.view(0, 0), "a", identity, {}));
    const Run stopping{1, [](double) { return false; }};
    Vectors many = vectors.view(0, 1);
    many.n = 3'000'000;
    many.stride = 0;
    bool stopped = false;
    try {
        index.add(many, nullptr, "a", identity, stopping);
    } catch (const Interrupted&) {
        stopped = true;
    }
    CHECK(stopped && index.untrained("a") && index.versions().empty() && bytes_of(index) == before);
    index.train(vectors.view(), "a", identity, {});
    CHECK(!index.untrained("a") && index.untrained("b") && index.size() == 0);
    CHECK_THROWS(InvalidInput, "trained already", index.train(vectors.view(), "a", identity, {}));
    index.add(vectors.view(), nullptr, "a", {}, kAllThreads);
    CHECK(index.versions() == (std::vector<std::pair<std::string, size_t>>{{"a", 500}}));
    Flat plain(options_of(10, Metric::cosine, "sign"));
    CHECK_THROWS(InvalidInput, "learn", plain.train(vectors.view(), "", {}, {}));
    for (const auto& [name, value] : std::map<std::string, std::string>{
             {"threshold", "max"}, {"rotation", "most"}, {"query", "int8"}, {"bits", "2"}, {"depth", "1"}}) {
        FlatOptions wrong = options_of(10, Metric::cosine, "sign");
        wrong.codec.parameters[name] = value;
        CHECK_THROWS(InvalidInput, name, Flat(wrong));
    }
    FlatOptions nine = options_of(10, Metric::cosine, "recurrent_binary");
    nine.codec.parameters["bits"] = "9";
    CHECK_THROWS(InvalidInput, "1 to 8", Flat(nine));
}

// ---------------------------------------------------------------------------------------------------------------------
// Files
// ---------------------------------------------------------------------------------------------------------------------

void test_files() {
    const fs::path folder =
        fs::temp_directory_path() / ("nearfield_test_flat_" + std::to_string(std::random_device{}()));
    fs::create_directory(folder);
    const Matrix vectors = random_matrix(9000, 12, 24), queries = random_matrix(10, 12, 25);
    for (const Metric metric : kMetrics) {
        for (const std::string codec : {"f32", "bf16", "int8"}) {
            for (const bool own_ids : {false, true}) {
                FlatOptions options = options_of(12, metric, codec);
                if (codec == "int8") options.rerank.name = "f16", options.oversample = 2.5;
                Flat index(options);
                std::vector<int64_t> ids = counted(5000, 100);
                std::shuffle(ids.begin(), ids.end(), std::mt19937(26));
                index.add(vectors.view(0, 5000), own_ids ? ids.data() : nullptr, "", {}, kAllThreads);
                const fs::path path = folder / "index.nearfield";
                index.save(path);
                const auto bytes = bytes_of(index);
                std::ifstream file(path, std::ios::binary);
                const std::vector<char> read((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
                CHECK(read.size() == bytes.size() && std::memcmp(read.data(), bytes.data(), read.size()) == 0);
                std::unique_ptr<Index> opened[] = {from_bytes(bytes), Index::load(Container::open(path, false, true)),
                                                   Index::load(Container::open(path, true, false))};
                for (const auto& other : opened) {
                    CHECK(other->options().metric == metric && other->options().codec.name == codec);
                    CHECK(other->options().oversample == options.oversample &&
                          other->options().rerank.name == options.rerank.name);
                    CHECK(other->ids() == index.ids() && other->size() == 5000);
                    check_equal(other->search(queries.view(), 9, {}, kAllThreads),
                                index.search(queries.view(), 9, {}, kAllThreads));
                    CHECK(bytes_of(*other) == bytes);
                }
                // Editing an index over a mapped file changes copies; it goes on like the one that was saved.
                index.remove(&ids[0], 1);
                index.add(vectors.view(5000, 4000), nullptr, "", {}, kAllThreads);
                for (const auto& other : opened) {
                    other->remove(&ids[0], 1);
                    other->add(vectors.view(5000, 4000), nullptr, "", {}, kAllThreads);
                    check_equal(other->search(queries.view(), 9, {}, kAllThreads),
                                index.search(queries.view(), 9, {}, kAllThreads));
                }
                CHECK(bytes_of(*Index::load(Container::open(path, false, true))) == bytes);
                CHECK(bytes_of(*opened[2]) == bytes_of(index));
                opened[2]->save(path);  // over the file that it has mapped
                CHECK(bytes_of(*Index::load(Container::open(path, true, true))) == bytes_of(index));
            }
        }
    }
    fs::remove_all(folder);
}

// Each piece of metadata changed: no crash, and no index that contradicts itself.
void test_hostile_metadata() {
    const Matrix vectors = random_matrix(10, 4, 27);
    Flat index(options_of(4, Metric::l2));
    index.add(vectors.view(), nullptr, "", {}, kAllThreads);
    const auto container = Container::from_bytes(bytes_of(index));
    const auto with = [&](const std::string& key, const std::string& value) {
        Metadata metadata = container->metadata();
        metadata[key] = value;
        std::vector<TensorSource> tensors;
        for (const Tensor& tensor : container->tensors()) {
            tensors.push_back({tensor.name, tensor.type, tensor.shape, {{tensor.data, tensor.bytes}}});
        }
        std::vector<std::byte> bytes;
        write_container([&](const std::byte* data, size_t n) { bytes.insert(bytes.end(), data, data + n); }, tensors,
                        metadata);
        return from_bytes(bytes);
    };
    CHECK(with("kind", "flat")->size() == 10);
    const std::vector<std::pair<std::string, std::string>> wrong = {
        {"kind", "graph"},     {"format_version", "2"}, {"metric", "l3"},  {"codec", "int8"},
        {"codec", "f64"},      {"rerank", "f16"},       {"rerank", "x"},   {"oversample", "0.5"},
        {"versions", "0"},     {"versions", "2"},       {"versions", "x"}, {"codec.bits", "2"},
        {"oversample", "nan"}, {"oversample", ""},      {"dim", "0"},      {"dim", "5"},
        {"dim", "4294967300"}, {"rows", "11"},          {"rows", "-1"},    {"rows", "4294967296"},
        {"next_id", "x"},      {"next_id", "9"},        {"next_id", "-1"}, {"next_id", "9223372036854775808"},
    };
    for (const auto& [key, value] : wrong) {
        try {
            with(key, value);
        } catch (const FileFormatError&) {
            continue;
        }
        check_failed(__FILE__, __LINE__, "metadata " + key + " = \"" + value + "\" was taken");
    }
}

}  // namespace

int main() {
    test_every_codec();
    test_input_types();
    test_screen();
    test_batches_and_threads();
    test_range_boundary();
    test_rerank();
    test_score();
    test_filters();
    test_filter_of_changed_index();
    test_changes();
    test_errors();
    test_bits();
    test_versions();
    test_training();
    test_files();
    test_hostile_metadata();
    return 0;
}
