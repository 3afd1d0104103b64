// A C++ program around the library: handles in smart pointers, statuses as exceptions, vectors that lie inside larger
// records, searches on several threads beside a writer, declared recall. Compares with brute force; returns 0 if all is
// right.
#include <nearfield.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

struct Close {
    void operator()(nearfield_index* index) const { nearfield_close(index); }
};
using Index = std::unique_ptr<nearfield_index, Close>;

void check(nearfield_status status) {
    if (status != NEARFIELD_OK) throw std::runtime_error(nearfield_last_error());
}

void expect(bool condition, const std::string& what) {
    if (!condition) throw std::logic_error(what);
}

Index create(std::size_t dim, const char* metric, const char* codec, const char* rerank = nullptr) {
    nearfield_index_options options{};
    options.struct_size = sizeof options;
    options.dim = dim;
    options.metric = metric;
    options.codec = codec;
    options.rerank = rerank;
    nearfield_index* index = nullptr;
    check(nearfield_create(&options, &index));
    return Index(index);
}

Index open_mapped(const std::string& path) {
    nearfield_open_options options{};
    options.struct_size = sizeof options;
    options.mmap = 1;
    nearfield_index* index = nullptr;
    check(nearfield_open(path.c_str(), &options, &index));
    return Index(index);
}

// Documents of a program that has its own plans for them: the vectors lie one record apart.
constexpr std::size_t kDim = 40, kBits = 100, kDocuments = 5000, kQueries = 10, kHits = 10;
struct Document {
    std::int64_t id;
    float vector[kDim];
    unsigned char fingerprint[(kBits + 7) / 8];
    char title[13];
};

std::vector<Document> make_documents(std::size_t n, unsigned seed = 1) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<Document> documents(n);
    for (Document& document : documents) {
        document.id = static_cast<std::int64_t>(1000 + 3 * (&document - documents.data()));
        for (float& x : document.vector) x = uniform(random);
        for (unsigned char& byte : document.fingerprint) byte = static_cast<unsigned char>(random() & random());
    }
    return documents;
}

nearfield_vectors vectors_of(const std::vector<Document>& documents, std::size_t n) {
    return {documents[0].vector, n, kDim, sizeof(Document), NEARFIELD_F32};
}

double cosine(const float* a, const float* b) {
    const double dot = std::inner_product(a, a + kDim, b, 0.0);
    return dot / std::sqrt(std::inner_product(a, a + kDim, a, 0.0) * std::inner_product(b, b + kDim, b, 0.0));
}

struct Hits {
    std::vector<std::int64_t> ids, counts;
    std::vector<float> scores;
};

Hits search(const nearfield_index* index, const nearfield_vectors& queries, std::size_t k,
            const nearfield_search_options* options = nullptr) {
    Hits hits{std::vector<std::int64_t>(queries.n * k), std::vector<std::int64_t>(queries.n),
              std::vector<float>(queries.n * k)};
    check(nearfield_search(index, &queries, k, options, hits.ids.data(), hits.scores.data(), hits.counts.data()));
    return hits;
}

nearfield_search_options search_options() {
    nearfield_search_options options{};
    options.struct_size = sizeof options;
    return options;
}

// The share of the true hits that a search finds.
double measure_recall(const nearfield_index* index, const nearfield_vectors& queries, std::size_t k,
                      const nearfield_search_options& options) {
    nearfield_search_options exact = search_options();
    exact.exact = 1;
    const Hits truth = search(index, queries, k, &exact), found = search(index, queries, k, &options);
    std::size_t right = 0;
    for (std::size_t i = 0; i < truth.ids.size(); ++i) {
        const auto first = found.ids.begin() + static_cast<std::ptrdiff_t>(i / k * k);
        right += std::count(first, first + static_cast<std::ptrdiff_t>(k), truth.ids[i]) > 0;
    }
    return static_cast<double>(right) / static_cast<double>(truth.ids.size());
}

// Finds out how many candidates the recalls take, and keeps that in the index.
void tune(nearfield_index* index, const nearfield_vectors& queries, std::size_t k, const std::vector<double>& recalls) {
    std::vector<nearfield_tuning_entry> entries;
    nearfield_search_options options = search_options();
    options.oversample = 1;
    for (const double recall : recalls) {
        double measured = measure_recall(index, queries, k, options);
        while (measured < recall) {
            options.oversample *= 1.2;
            measured = measure_recall(index, queries, k, options);
        }
        entries.push_back({recall, measured, options.oversample, 0});
    }
    check(nearfield_set_tuning(index, entries.data(), entries.size(), k, queries.n));
}

void test_search(const std::vector<Document>& documents, const nearfield_index* index, double error) {
    const Hits hits = search(index, vectors_of(documents, kQueries), kHits);
    for (std::size_t q = 0; q < kQueries; ++q) {
        std::vector<double> scores;
        for (const Document& document : documents) scores.push_back(cosine(documents[q].vector, document.vector));
        std::vector<double> sorted = scores;
        std::sort(sorted.begin(), sorted.end(), std::greater<>());
        expect(hits.ids[q * kHits] == documents[q].id, "a document finds itself");
        for (std::size_t i = 0; i < kHits; ++i) {
            const std::size_t at = q * kHits + i;
            const double own = scores.at(static_cast<std::size_t>(hits.ids[at] - 1000) / 3);
            expect(std::abs(own - static_cast<double>(hits.scores[at])) <= error, "scores are true");
            expect(std::abs(own - sorted[i]) <= 2 * error, "hits are the best");
        }
    }
}

void test_threads(const std::vector<Document>& documents, nearfield_index* index) {
    std::vector<std::thread> readers;
    std::vector<std::string> failures(3);
    for (std::string& failure : failures) {
        readers.emplace_back([&documents, index, &failure] {
            try {
                for (int turn = 0; turn < 20; ++turn) {
                    const Hits hits = search(index, vectors_of(documents, kQueries), 1);
                    for (std::size_t q = 0; q < kQueries; ++q) expect(hits.ids[q] == documents[q].id, "still there");
                }
            } catch (const std::exception& error) {
                failure = error.what();
            }
        });
    }
    for (std::size_t i = kQueries; i < kQueries + 200; ++i) {
        check(nearfield_remove(index, &documents[i].id, 1));
        const nearfield_vectors vector{documents[i].vector, 1, kDim, 0, NEARFIELD_F32};
        check(nearfield_add(index, &vector, &documents[i].id, nullptr, nullptr));
    }
    for (std::thread& reader : readers) reader.join();
    for (const std::string& failure : failures) expect(failure.empty(), failure);
}

// A coarse codec in front of a finer one: what was tuned with some queries holds for others.
void test_declared_recall(const std::vector<Document>& documents, const std::string& path) {
    const Index index = create(kDim, "cosine", "sign", "f16");
    const nearfield_vectors vectors = vectors_of(documents, kDocuments);
    check(nearfield_add(index.get(), &vectors, nullptr, nullptr, nullptr));
    const std::vector<Document> asked = make_documents(400, 2);
    const nearfield_vectors some = vectors_of(asked, 200), others{asked[200].vector, 200, kDim, sizeof(Document), 0};
    tune(index.get(), some, kHits, {0.8, 0.9});
    check(nearfield_save(index.get(), path.c_str()));
    const Index mapped = open_mapped(path);
    expect(nearfield_tuning_size(mapped.get()) == 2, "the file keeps what was tuned");
    std::vector<nearfield_tuning_entry> entries(2);
    check(nearfield_tuning(mapped.get(), entries.data(), entries.size()));
    expect(entries[0].oversample < entries[1].oversample, "more recall takes more candidates");
    for (const nearfield_tuning_entry& entry : entries) {
        nearfield_search_options options = search_options();
        options.recall = entry.recall;
        expect(entry.measured >= entry.recall, "tuned until it was reached");
        expect(measure_recall(mapped.get(), some, kHits, options) == entry.measured, "as it was measured");
        expect(measure_recall(mapped.get(), others, kHits, options) > entry.recall - 0.03, "also for other queries");
    }
}

int ones(const Document& a, const Document& b, bool either) {
    int count = 0;
    for (std::size_t i = 0; i < kBits; ++i) {
        const int x = a.fingerprint[i / 8] >> (7 - i % 8) & 1, y = b.fingerprint[i / 8] >> (7 - i % 8) & 1;
        count += either ? x | y : x & y;
    }
    return count;
}

// Fingerprints of an odd length, found by their Tanimoto similarity.
void test_fingerprints(const std::vector<Document>& documents, const std::vector<std::int64_t>& ids) {
    const Index index = create(kBits, "jaccard", nullptr);
    const nearfield_vectors fingerprints{documents[0].fingerprint, documents.size(), kBits, sizeof(Document),
                                         NEARFIELD_BITS};
    check(nearfield_add(index.get(), &fingerprints, ids.data(), nullptr, nullptr));
    nearfield_vectors queries = fingerprints;
    queries.n = kQueries;
    const Hits hits = search(index.get(), queries, kHits);
    for (std::size_t q = 0; q < kQueries; ++q) {
        std::vector<std::pair<float, std::int64_t>> expected;
        for (const Document& document : documents) {
            const double both = ones(documents[q], document, false), either = ones(documents[q], document, true);
            expected.emplace_back(-static_cast<float>(both / either), document.id);
        }
        std::sort(expected.begin(), expected.end());
        for (std::size_t i = 0; i < kHits; ++i) {
            expect(hits.scores[q * kHits + i] == -expected[i].first, "similarities are exact");
            expect(hits.ids[q * kHits + i] == expected[i].second, "ties come by the lower id");
        }
    }
}

// Messages are each thread's own.
void test_errors(nearfield_index* index) {
    const float values[2] = {1, 2};
    const nearfield_vectors wrong{values, 1, 2, 0, NEARFIELD_F32};
    expect(nearfield_add(index, &wrong, nullptr, nullptr, nullptr) == NEARFIELD_INVALID_ARGUMENT, "wrong dimension");
    std::thread([] { expect(std::string(nearfield_last_error()).empty(), "no error here yet"); }).join();
    const std::string message = nearfield_last_error();
    expect(message.find("dimension 2") != std::string::npos, "the message says what was given: " + message);
    expect(message.find("dimension 40") != std::string::npos, "the message says what was expected: " + message);
}

}  // namespace

int main(int argc, char** argv) try {
    const std::string path = argc > 1 ? argv[1] : "consumer_cpp.nearfield";
    const std::vector<Document> documents = make_documents(kDocuments);
    std::vector<std::int64_t> ids;
    for (const Document& document : documents) ids.push_back(document.id);
    const nearfield_vectors vectors = vectors_of(documents, kDocuments);
    for (const char* codec : {"f32", "f16", "bf16", "int8"}) {
        const Index index = create(kDim, "cosine", codec, codec == std::string("int8") ? "f32" : nullptr);
        check(nearfield_add(index.get(), &vectors, ids.data(), nullptr, nullptr));
        const double error = codec == std::string("f16") ? 1e-3 : codec == std::string("bf16") ? 5e-3 : 1e-6;
        test_search(documents, index.get(), error);
        check(nearfield_save(index.get(), path.c_str()));
        const Index mapped = open_mapped(path);
        test_search(documents, mapped.get(), error);
        test_threads(documents, mapped.get());
        test_search(documents, mapped.get(), error);
        test_errors(index.get());
    }
    test_fingerprints(documents, ids);
    test_declared_recall(documents, path);
    std::cout << "nearfield " << nearfield_version() << ": ok\n";
    return 0;
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
}
