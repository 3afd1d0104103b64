// Inverted lists against an index without lists, and files whose arrays lie: what the address sanitizer should see.
#include "search/ivf.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>
#include <set>

#include "check.hpp"
#include "search/flat.hpp"
#include "temporary_directory.hpp"

namespace fs = std::filesystem;
using namespace nearfield;

namespace {

constexpr Metric kMetrics[] = {Metric::cosine, Metric::ip, Metric::l2};
constexpr size_t kDim = 13, kLists = 12, kAll = 1000;
const Run kTwoThreads{2, nullptr};

std::vector<float> clustered(size_t n, unsigned seed) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> centers(20 * kDim), out(n * kDim);
    for (float& x : centers) x = normal(random);
    random.seed(seed);
    for (size_t i = 0; i < n; ++i) {
        const float* center = &centers[random() % 20 * kDim];
        for (size_t d = 0; d < kDim; ++d) out[i * kDim + d] = center[d] + 0.4f * normal(random);
    }
    return out;
}

Vectors view(const std::vector<float>& values, size_t first = 0, size_t n = kAll * kAll) {
    n = std::min(n, values.size() / kDim - first);
    return {reinterpret_cast<const std::byte*>(values.data() + first * kDim), kernels::kF32, n, kDim,
            kDim * sizeof(float)};
}

IvfOptions options_of(Metric metric, const std::string& codec, const std::string& rerank, double soar = 0) {
    IvfOptions options;
    options.dim = kDim;
    options.metric = metric;
    options.codec.name = codec;
    options.rerank.name = rerank;
    options.oversample = 1e6;
    options.lists = kLists;
    options.probes = kAll;
    options.soar = soar;
    return options;
}

std::vector<std::byte> bytes_of(const Index& index) {
    std::vector<std::byte> bytes;
    index.save([&](const std::byte* data, size_t n) { bytes.insert(bytes.end(), data, data + n); });
    return bytes;
}

std::vector<char> bytes_at(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void check_same(const SearchResult& found, const SearchResult& expected) {
    CHECK(found.ids == expected.ids && found.counts == expected.counts);
    CHECK(std::equal(found.scores.begin(), found.scores.end(), expected.scores.begin(),
                     [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }));
}

void test_all_lists_are_exact() {
    const std::vector<float> rows = clustered(600, 2), queries = clustered(20, 3);
    for (const Metric metric : kMetrics) {
        FlatOptions plain;
        plain.dim = kDim;
        plain.metric = metric;
        plain.codec.name = "f32";
        for (const char* codec : {"f32", "int8", "sq8", "pq4", "rabitq1", "lloyd4", "lvq4x8"}) {
            for (const double soar : {0.0, 1.0}) {
                Flat flat(plain);
                Ivf ivf(options_of(metric, codec, "f32", soar));
                flat.add(view(rows), nullptr, "", {}, kTwoThreads);
                ivf.add(view(rows), nullptr, "", {}, kTwoThreads);
                const std::vector<size_t> sizes = ivf.list_sizes();
                CHECK(ivf.lists() == kLists && ivf.centroids().size() == kLists * kDim);
                CHECK(std::accumulate(sizes.begin(), sizes.end(), size_t{0}) == (soar != 0 ? 1200 : 600));
                const auto both = [&](const auto& change) { change(static_cast<Index&>(flat)), change(ivf); };
                const auto check = [&] {
                    for (const size_t k : {size_t{0}, size_t{1}, size_t{10}, size_t{700}}) {
                        check_same(ivf.search(view(queries), k, {}, kTwoThreads),
                                   flat.search(view(queries), k, {}, kTwoThreads));
                    }
                };
                check();
                std::vector<int64_t> some(100);
                std::iota(some.begin(), some.end(), 50);
                both([&](Index& index) { index.update(some.data(), view(rows, 300, 100), kTwoThreads); });
                check();
                both([&](Index& index) { index.remove(some.data(), 70); });
                check();
                both([&](Index& index) { index.add(view(rows, 0, 70), some.data(), "", {}, kTwoThreads); });
                check();
                const std::vector<int64_t> ids = ivf.ids();
                both([&](Index& index) { index.remove(ids.data(), ids.size()); });
                check();
                both([&](Index& index) { index.add(view(rows), nullptr, "", {}, kTwoThreads); });
                check();
            }
        }
    }
}

// However few lists are visited, there are as many results as there can be, each once.
void test_counts() {
    const std::vector<float> rows = clustered(900, 2), queries = clustered(30, 3);
    for (const Metric metric : kMetrics) {
        for (const char* rerank : {"f32", ""}) {
            for (const double soar : {0.0, 1.0}) {
                IvfOptions options = options_of(metric, "rabitq1", rerank, soar);
                options.probes = 1;
                options.oversample = 1;
                options.lists = 60;
                Ivf ivf(options);
                ivf.add(view(rows), nullptr, "", {}, kTwoThreads);
                std::vector<int64_t> kept(45), gone(300);
                for (size_t i = 0; i < kept.size(); ++i) kept[i] = static_cast<int64_t>(i * 20);
                const auto check = [&](size_t live, size_t allowed) {
                    const auto filter = ivf.filter_of_ids(kept.data(), kept.size());
                    for (const size_t k : {size_t{1}, size_t{40}, size_t{400}}) {
                        for (const bool filtered : {false, true}) {
                            SearchOptions search;
                            if (filtered) search.filter = filter.get();
                            const SearchResult found = ivf.search(view(queries), k, search, kTwoThreads);
                            const size_t count = std::min(k, filtered ? allowed : live);
                            for (size_t q = 0; q < 30; ++q) {
                                const auto first = found.ids.begin() + static_cast<std::ptrdiff_t>(q * k);
                                CHECK(static_cast<size_t>(found.counts[q]) == count);
                                const std::set<int64_t> own(first, first + static_cast<std::ptrdiff_t>(count));
                                CHECK(own.size() == count && (count == 0 || *own.begin() >= 0));
                                for (const int64_t id : own) CHECK(!filtered || id % 20 == 0);
                            }
                        }
                    }
                };
                check(900, 45);
                std::iota(gone.begin(), gone.end(), 600);
                ivf.remove(gone.data(), gone.size());
                check(600, 30);
            }
        }
    }
}

void test_builds() {
    const TemporaryDirectory directory;
    const std::vector<float> rows = clustered(1500, 2), queries = clustered(20, 3);
    for (const char* codec : {"rabitq1", "f32", "lvq4x8"}) {
        for (const double soar : {0.0, 1.0}) {
            const IvfOptions options = options_of(Metric::l2, codec, soar != 0 ? "" : "f16", soar);
            Ivf ivf(options);
            ivf.train(view(rows), "", {}, kTwoThreads);
            const std::vector<std::byte> before = bytes_of(ivf);
            const fs::path a = directory.path / "a", b = directory.path / "b";
            ivf.build(view(rows), a, 300'000, kTwoThreads);
            size_t given = 0;
            const Ivf::Next next = [&]() -> std::optional<Vectors> {
                if (given >= 1500) return std::nullopt;
                given += 77;
                return view(rows, given - 77, 77);
            };
            ivf.build(next, b, 300'000, kTwoThreads);
            CHECK(bytes_at(a) == bytes_at(b) && bytes_of(ivf) == before);
            ivf.add(view(rows), nullptr, "", {}, kTwoThreads);
            for (const bool mapped : {false, true}) {
                const auto built = Index::load(Container::open(a, mapped, !mapped));
                check_same(built->search(view(queries), 20, {}, kTwoThreads),
                           ivf.search(view(queries), 20, {}, kTwoThreads));
            }
            CHECK_THROWS(InvalidInput, "vectors", ivf.build(view(rows), a, 300'000, kTwoThreads));
        }
    }
    // A source that fails half way.
    Ivf ivf(options_of(Metric::cosine, "rabitq1", "f16"));
    size_t calls = 0;
    const Ivf::Next next = [&]() -> std::optional<Vectors> {
        if (++calls == 3) throw std::runtime_error("broken");
        return view(rows);
    };
    const fs::path path = directory.path / "c";
    CHECK_THROWS(std::runtime_error, "broken", ivf.build(next, path, 300'000, kTwoThreads));
    CHECK_THROWS(InvalidInput, "memory_budget", ivf.build(view(rows), path, 1000, kTwoThreads));
    CHECK(!fs::exists(path) && ivf.size() == 0);
    CHECK(std::distance(fs::directory_iterator(directory.path), fs::directory_iterator()) == 2);
}

// ---------------------------------------------------------------------------------------------------------------------
// Arrays that lie
// ---------------------------------------------------------------------------------------------------------------------

void use(Index& index) {
    const std::vector<float> queries = clustered(3, 9);
    const auto attempt = [](const auto& call) {
        try {
            call();
        } catch (const std::exception&) {
        }
    };
    const int64_t some[] = {0, 7, 33};
    const Vectors q = view(queries);
    SearchOptions few, exhaustive, filtered;
    few.probes = 2;
    exhaustive.exhaustive = true;
    const auto filter = index.filter_of_ids(some, 3);
    filtered.filter = filter.get();
    for (int round = 0; round < 2; ++round) {
        for (const SearchOptions& options : {SearchOptions{}, few, exhaustive, filtered}) {
            attempt([&] { index.search(q, 5, options, kTwoThreads); });
            attempt([&] { index.search(q, 500, options, kTwoThreads); });
            attempt([&] { index.range_search(q, 2, options, kTwoThreads); });
        }
        attempt([&] { index.score(q, some, 3, false, {}, kTwoThreads); });
        attempt([&] { index.reconstruct(some, 3); });
        attempt([&] { index.codes(some, 3); });
        attempt([&] { bytes_of(index); });
        attempt([&] { index.update(some, q, kTwoThreads); });
        attempt([&] { index.remove(some, 1); });
        attempt([&] { Index::load(Container::from_bytes(bytes_of(index))); });
        attempt([&] { index.add(q, nullptr, "", {}, kTwoThreads); });
    }
    const std::vector<int64_t> ids = index.ids();
    attempt([&] { index.remove(ids.data(), ids.size() / 2 + 20); });
    attempt([&] { bytes_of(index); });
    attempt([&] { index.search(q, 5, {}, kTwoThreads); });
}

void test_arrays_that_lie() {
    const TemporaryDirectory directory;
    const std::vector<float> rows = clustered(300, 2);
    std::mt19937 random(5);
    size_t opened = 0;
    for (const char* codec : {"rabitq1", "f32", "lvq4x8", "pq4"}) {
        for (const double soar : {0.0, 1.0}) {
            Ivf ivf(options_of(Metric::l2, codec, soar != 0 ? "" : "f16", soar));
            ivf.add(view(rows), nullptr, "", {}, kTwoThreads);
            const fs::path path = directory.path / "index";
            ivf.save(path);
            const std::vector<char> data = bytes_at(path);
            struct Place {
                std::string name;
                size_t first, bytes;
            };
            std::vector<Place> places;
            {
                const auto file = Container::open(path, true, false);
                uint64_t header = 0;
                std::memcpy(&header, data.data(), sizeof(header));
                for (const Tensor& tensor : file->tensors()) {
                    const auto found = std::search(data.begin() + static_cast<std::ptrdiff_t>(8 + header), data.end(),
                                                   reinterpret_cast<const char*>(tensor.data),
                                                   reinterpret_cast<const char*>(tensor.data) + tensor.bytes);
                    places.push_back({tensor.name, static_cast<size_t>(found - data.begin()), tensor.bytes});
                }
            }
            for (const Place& place : places) {
                if (place.bytes == 0) continue;
                for (int sort = 0; sort < 4; ++sort) {
                    std::vector<char> lie = data;
                    for (size_t i = 0; i < place.bytes; ++i) {
                        char& value = lie[place.first + i];
                        if (sort == 0) value = 0;
                        if (sort == 1) value = static_cast<char>(0xFF);
                        if (sort == 2) value = static_cast<char>(random());
                        if (sort == 3 && random() % 50 == 0) value ^= static_cast<char>(1 << random() % 8);
                    }
                    // Checksums are no help against strangers: an upper-case key is none that is known.
                    const std::string key = "checksum";
                    for (auto at = lie.begin();;) {
                        at = std::search(at, lie.end(), key.begin(), key.end());
                        if (at == lie.end()) break;
                        *at = 'C';
                    }
                    std::ofstream(path, std::ios::binary).write(lie.data(), static_cast<std::streamsize>(lie.size()));
                    for (const bool mapped : {false, true}) {
                        try {
                            const auto index = Index::load(Container::open(path, mapped, false));
                            ++opened;
                            use(*index);
                        } catch (const FileFormatError&) {
                        }
                    }
                }
            }
        }
    }
    CHECK(opened > 200);
}

}  // namespace

int main() {
    test_all_lists_are_exact();
    test_counts();
    test_builds();
    test_arrays_that_lie();
    return 0;
}
