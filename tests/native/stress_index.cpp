// Searches beside a writer and beside saves: whatever the moment, a reader sees an index as it was between two changes.
// Also run under the thread sanitizer. `stress_index SECONDS` runs for longer than the usual few seconds.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <random>
#include <set>
#include <thread>

#include "check.hpp"
#include "search/flat.hpp"
#include "search/ivf.hpp"

namespace fs = std::filesystem;
using namespace nearfield;
using Clock = std::chrono::steady_clock;

namespace {

constexpr size_t kDim = 12;
constexpr int64_t kStart = 3600;  // rows at first: identity of ids and rows, and no screen yet
// Ids with these remainders modulo 3 ...
enum Fate { kStays, kIsUpdated, kComesAndGoes };
Fate fate_of(int64_t id) { return static_cast<Fate>(id % 3); }
const Run kTwoThreads{2, nullptr};
// Vectors of inverted lists are all of one version.
bool has_versions(const Index& index) { return index.kind() == "flat"; }

// A vector that tells whose it is and how often it was updated, and whether it is whole.
void write_vector(int64_t id, int revision, float* out) {
    out[0] = static_cast<float>(id);
    out[1] = static_cast<float>(revision);
    std::mt19937 random(static_cast<unsigned>(id * 31 + revision));
    for (size_t d = 2; d < kDim; ++d) out[d] = static_cast<float>(random() % 1024);
}

std::vector<float> vectors_of(const std::vector<int64_t>& ids, int revision) {
    std::vector<float> vectors(ids.size() * kDim);
    for (size_t i = 0; i < ids.size(); ++i) write_vector(ids[i], revision, vectors.data() + i * kDim);
    return vectors;
}

Vectors view(const std::vector<float>& vectors) {
    return {reinterpret_cast<const std::byte*>(vectors.data()), kernels::kF32, vectors.size() / kDim, kDim,
            kDim * sizeof(float)};
}

void check_whole(int64_t id, const float* vector) {
    float expected[kDim];
    write_vector(id, static_cast<int>(vector[1]), expected);
    CHECK(std::equal(vector, vector + kDim, expected));
    CHECK(fate_of(id) == kIsUpdated || vector[1] == 0);
}

std::vector<int64_t> ids_of(Fate fate) {
    std::vector<int64_t> ids;
    for (int64_t id = 0; id < kStart; ++id) {
        if (fate_of(id) == fate) ids.push_back(id);
    }
    return ids;
}

// ---------------------------------------------------------------------------------------------------------------------
// What goes on at the same time
// ---------------------------------------------------------------------------------------------------------------------

void search(const Index& index, unsigned seed) {
    std::mt19937 random(seed);
    const std::vector<int64_t> staying = ids_of(kStays), updated = ids_of(kIsUpdated);
    const int64_t known[] = {staying[random() % staying.size()], staying[random() % staying.size()]};
    const std::vector<float> queries = vectors_of({known[0], known[1]}, 0);

    const size_t k = 40;
    SearchOptions finest;  // what is coded by signs is told apart by the finer copy only
    finest.exhaustive = true;
    const SearchResult found = index.search(view(queries), k, finest, kTwoThreads);
    for (size_t q = 0; q < 2; ++q) {
        const auto first = found.ids.begin() + static_cast<std::ptrdiff_t>(q * k);
        CHECK(found.counts[q] == k && first[0] == known[q] && found.scores[q * k] == 0);
        CHECK(std::set<int64_t>(first, first + k).size() == k);
        CHECK(std::is_sorted(&found.scores[q * k], &found.scores[q * k] + k));
    }

    const SearchResult coarse = index.search(view(queries), k, {}, kTwoThreads);
    for (size_t q = 0; q < 2; ++q) {
        const auto first = coarse.ids.begin() + static_cast<std::ptrdiff_t>(q * k);
        CHECK(coarse.counts[q] == k && std::set<int64_t>(first, first + k).size() == k && *first >= 0);
    }

    // Ids that never leave are there in every moment, once.
    std::vector<int64_t> wanted(updated.begin(), updated.begin() + 50);
    const auto filter = index.filter_of_ids(wanted.data(), wanted.size());
    CHECK(filter->count() == wanted.size());
    SearchOptions options;
    options.filter = filter.get();
    SearchResult all = index.search(view(queries), wanted.size(), options, kTwoThreads);
    std::sort(all.ids.begin(), all.ids.begin() + 50);
    CHECK(std::equal(wanted.begin(), wanted.end(), all.ids.begin()));
    CHECK(index.filter_of_ids(updated.data(), updated.size())->count() == updated.size());

    const double far = 1e6;
    const RangeResult everything = index.range_search(view(queries), far, {}, kTwoThreads);
    for (size_t q = 0; q < 2; ++q) {
        const std::set<int64_t> ids(everything.ids.begin() + everything.offsets[q],
                                    everything.ids.begin() + everything.offsets[q + 1]);
        CHECK(ids.size() == static_cast<size_t>(everything.offsets[q + 1] - everything.offsets[q]));
        CHECK(std::includes(ids.begin(), ids.end(), staying.begin(), staying.end()));
        CHECK(std::includes(ids.begin(), ids.end(), updated.begin(), updated.end()));
    }
    if (!has_versions(index)) return;
    SearchOptions original;
    original.version = "";
    const RangeResult first = index.range_search(view(queries), far, original, kTwoThreads);
    const std::set<int64_t> ids(first.ids.begin(), first.ids.end());
    CHECK(std::includes(ids.begin(), ids.end(), staying.begin(), staying.end()));
    CHECK(std::includes(ids.begin(), ids.end(), updated.begin(), updated.end()));
    CHECK(*ids.rbegin() < kStart);
}

void look(const Index& index) {
    const std::vector<int64_t> updated = ids_of(kIsUpdated);
    const std::vector<float> vectors = index.reconstruct(updated.data(), updated.size());
    for (size_t i = 0; i < updated.size(); ++i) check_whole(updated[i], &vectors[i * kDim]);
    const std::vector<float> scores = index.score(view(vectors), updated.data(), 20, false, {}, kTwoThreads);
    CHECK(std::none_of(scores.begin(), scores.end(), [](float score) { return std::isnan(score); }));
    for (const int64_t id : updated) CHECK(index.contains(id));
    const std::vector<int64_t> ids = index.ids();
    CHECK(std::set<int64_t>(ids.begin(), ids.end()).size() == ids.size());
    CHECK(index.size() >= static_cast<size_t>(kStart / 3 * 2) && index.size() < 1'000'000 && index.nbytes() > 0);
}

void save(const Index& index) {
    std::vector<std::byte> bytes;
    index.save([&](const std::byte* data, size_t n) { bytes.insert(bytes.end(), data, data + n); });
    const auto saved = Index::load(Container::from_bytes(bytes));
    const std::vector<int64_t> ids = saved->ids();
    const std::vector<float> vectors = saved->reconstruct(ids.data(), ids.size());
    for (size_t i = 0; i < ids.size(); ++i) check_whole(ids[i], &vectors[i * kDim]);
    size_t rows = 0;
    for (const auto& [name, count] : saved->versions()) rows += count;
    CHECK(rows == saved->size());
    look(*saved);
}

// Adds, updates and removes; crosses the first explicit id, the first screen, new versions and compaction.
void write(Index& index, unsigned seed) {
    std::mt19937 random(seed);
    const std::vector<int64_t> updated = ids_of(kIsUpdated);
    std::vector<int64_t> present = ids_of(kComesAndGoes), absent;
    int64_t next = kStart;
    for (int step = 1; step <= 60; ++step) {
        const size_t batch = 1 + random() % 300;
        switch (random() % 4) {
            case 0: {
                std::vector<int64_t> ids(batch);
                std::iota(ids.begin(), ids.end(), next);
                const std::string version = has_versions(index) ? "new" : "";
                CHECK(index.add(view(vectors_of(ids, 0)), nullptr, version, {}, kTwoThreads) == ids);
                next += static_cast<int64_t>(batch);
                break;
            }
            case 1: {
                const size_t first = random() % updated.size();
                const std::vector<int64_t> ids(
                    updated.begin() + static_cast<std::ptrdiff_t>(first),
                    updated.begin() + static_cast<std::ptrdiff_t>(std::min(first + batch, updated.size())));
                index.update(ids.data(), view(vectors_of(ids, step)), kTwoThreads);
                break;
            }
            default: {  // out and in again
                std::vector<int64_t>& from = random() % 2 == 0 ? present : absent;
                std::vector<int64_t>& to = &from == &present ? absent : present;
                std::shuffle(from.begin(), from.end(), random);
                const std::vector<int64_t> ids(from.end() - static_cast<std::ptrdiff_t>(std::min(batch, from.size())),
                                               from.end());
                from.resize(from.size() - ids.size());
                to.insert(to.end(), ids.begin(), ids.end());
                if (&from == &present) index.remove(ids.data(), ids.size());
                const std::string version = has_versions(index) ? "back" : "";
                if (&from == &absent) index.add(view(vectors_of(ids, 0)), ids.data(), version, {}, kTwoThreads);
            }
        }
    }
}

void run(Index& index, unsigned seed) {
    std::atomic<bool> done{false};
    const auto until_done = [&](const auto& work) {
        return std::thread([&done, work] {
            unsigned turn = 0;
            do {
                work(turn++);
            } while (!done);
        });
    };
    std::thread threads[] = {
        until_done([&](unsigned turn) { search(index, seed + turn); }),
        until_done([&](unsigned turn) { search(index, seed + 1000 + turn); }),
        until_done([&](unsigned) { look(index); }),
        until_done([&](unsigned turn) {
            if (turn % 4 == 0) save(index);
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }),
    };
    write(index, seed);
    done = true;
    for (std::thread& thread : threads) thread.join();
}

std::unique_ptr<Index> make(unsigned turn) {
    IndexOptions options;
    options.dim = kDim;
    options.metric = Metric::l2;
    if (turn % 2 == 0) {
        const unsigned sort = turn / 2 % 3;
        if (sort == 1) options.codec = {"sign", {{"threshold", "median"}, {"query", "code"}}};
        if (sort == 2) options.codec = {"rabitq2", {}};  // groups with a tail, and fine bytes
        if (sort != 0) options.rerank.name = "f32";
        return std::make_unique<Flat>(FlatOptions{options});
    }
    const unsigned sort = turn / 2 % 4;
    options.codec.name = sort == 0 ? "rabitq1" : sort == 1 ? "f32" : sort == 2 ? "lvq4x8" : "rabitq1";
    options.rerank.name = "f32";
    IvfOptions own{options};
    own.lists = 24;
    own.probes = 24;  // all: everything is to be found
    own.soar = sort == 3 ? 1.0 : 0;
    return std::make_unique<Ivf>(own);
}

}  // namespace

int main(int argc, char** argv) {
    const auto end = Clock::now() + std::chrono::seconds(argc > 1 ? std::atoi(argv[1]) : 3);
    const fs::path path = fs::temp_directory_path() / ("nearfield_stress_" + std::to_string(std::random_device{}()));
    std::vector<int64_t> ids(static_cast<size_t>(kStart));
    std::iota(ids.begin(), ids.end(), 0);
    unsigned seed = 0, turn = 0;
    do {
        const std::unique_ptr<Index> index = make(turn++);
        index->add(view(vectors_of(ids, 0)), nullptr, "", {}, kTwoThreads);
        index->save(path);
        run(*index, ++seed);
        const auto mapped = Index::load(Container::open(path, true, false));
        run(*mapped, ++seed);
    } while (Clock::now() < end || turn < 2);
    fs::remove(path);
    std::printf("%u rounds\n", seed);
    return 0;
}
