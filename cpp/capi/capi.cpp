// nearfield.h over the searches: check the arguments, call, and turn exceptions into status codes.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/dispatch.hpp"
#include "nearfield.h"
#include "search/clustering.hpp"
#include "search/flat.hpp"
#include "search/ivf.hpp"
#include "storage/container.hpp"

using namespace nearfield;

struct nearfield_index {
    std::unique_ptr<Index> index;
};

struct nearfield_filter {
    std::shared_ptr<Filter> filter;
};

struct nearfield_range_hits {
    RangeResult result;
};

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Errors
// ---------------------------------------------------------------------------------------------------------------------

thread_local std::string last_error;

nearfield_status fail(nearfield_status status, const char* message) noexcept {
    try {
        last_error = message;
    } catch (...) {  // no memory for a long message
        last_error.clear();
    }
    return status;
}

// A function of the caller gave up.
struct CallerStopped : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Runs a call of the API; its exceptions become a status and a message.
template <class Call>
nearfield_status guarded(const Call& call) noexcept {
    try {
        call();
        return NEARFIELD_OK;
    } catch (const IdError& e) {
        return fail(NEARFIELD_INVALID_ID, e.what());
    } catch (const FileFormatError& e) {
        return fail(NEARFIELD_FILE_FORMAT, e.what());
    } catch (const std::filesystem::filesystem_error& e) {
        return fail(NEARFIELD_IO, e.what());
    } catch (const CallerStopped& e) {
        return fail(NEARFIELD_IO, e.what());
    } catch (const std::bad_alloc&) {
        return fail(NEARFIELD_OUT_OF_MEMORY, "out of memory");
    } catch (const std::length_error&) {  // more elements than a vector can have
        return fail(NEARFIELD_OUT_OF_MEMORY, "out of memory");
    } catch (const std::invalid_argument& e) {
        return fail(NEARFIELD_INVALID_ARGUMENT, e.what());
    } catch (const std::exception& e) {
        return fail(NEARFIELD_INTERNAL, e.what());
    } catch (...) {
        return fail(NEARFIELD_INTERNAL, "unknown error");
    }
}

// The same for calls that return a value; that of T{} stands for an error.
template <class T, class Call>
T value_of(const Call& call) noexcept {
    T value{};
    guarded([&] { value = call(); });
    return value;
}

// ---------------------------------------------------------------------------------------------------------------------
// Arguments
// ---------------------------------------------------------------------------------------------------------------------

template <class T>
T* required(T* pointer, const char* name) {
    if (pointer == nullptr) throw InvalidInput(std::string(name) + ": NULL given");
    return pointer;
}

// An array of n elements, which may be NULL if there are none.
template <class T>
T* array_of(T* pointer, size_t n, const char* name) {
    return n == 0 ? pointer : required(pointer, name);
}

// The size of an array that takes all of something.
void check_count(size_t given, size_t held, const std::string& what) {
    if (given == held) return;
    throw InvalidInput("n: " + std::to_string(given) + " given, the index holds " + std::to_string(held) + " " + what);
}

void expect_success(int returned, const char* function) {
    if (returned == 0) return;
    throw CallerStopped(std::string(function) + ": the function returned " + std::to_string(returned));
}

Index& index_of(const nearfield_index* handle) { return *required(handle, "index")->index; }

const Ivf& ivf_of(const nearfield_index* handle) {
    const auto* ivf = dynamic_cast<const Ivf*>(&index_of(handle));
    if (ivf == nullptr) throw InvalidInput("index: of kind \"flat\", expected \"ivf\"");
    return *ivf;
}

// The caller's options as this version knows them: fields behind the end of a shorter struct hold 0, and those of a
// longer one, from a later version, must be 0.
template <class Options>
Options options_of(const Options* given) {
    Options known{};
    if (given == nullptr) return known;
    constexpr size_t kLargest = 4096;
    const size_t size = given->struct_size;
    if (size < sizeof(size_t) || size > kLargest) {
        throw InvalidInput("options: struct_size is " + std::to_string(size) + ", expected the size of the struct");
    }
    const auto* bytes = reinterpret_cast<const unsigned char*>(given);
    if (std::any_of(bytes + std::min(sizeof(Options), size), bytes + size, [](unsigned char b) { return b != 0; })) {
        throw InvalidInput("options: a field is set that version " NEARFIELD_VERSION " does not know");
    }
    std::memcpy(&known, given, std::min(sizeof(Options), size));
    return known;
}

std::string text_or(const char* text, const char* instead) { return text != nullptr ? text : instead; }

Vectors vectors_of(const nearfield_vectors* given, const char* name) {
    required(given, name);
    static constexpr size_t kElementBytes[kernels::kElementTypes] = {4, 2, 2, 1, 1};
    if (given->type < 0 || given->type > kernels::kBits) {
        throw InvalidInput(std::string(name) + ": element type " + std::to_string(given->type) +
                           " given, expected NEARFIELD_F32 to NEARFIELD_BITS");
    }
    const auto* data = static_cast<const std::byte*>(array_of(given->data, given->n, name));
    const auto type = static_cast<kernels::ElementType>(given->type);
    const bool bits = type == kernels::kBits;
    const size_t bytes = bits ? (given->dim + 7) / 8 : given->dim * kElementBytes[type];
    const size_t stride = given->stride != 0 ? given->stride : bytes;
    return {data, type, given->n, given->dim, stride};
}

// The codec of a name, "" being the default one, and of a list of parameters.
CodecSpec codec_of(const char* codec, const char* const* parameters, const char* name) {
    CodecSpec out{text_or(codec, ""), {}};
    for (const char* const* at = parameters; at != nullptr && *at != nullptr; at += 2) {
        out.parameters[at[0]] = required(at[1], name);
    }
    return out;
}

// What all kinds of indexes are told; texts and the number stand for what the caller left out.
IndexOptions common_options_of(const nearfield_index_options& given, const char* codec, const char* rerank,
                               double oversample) {
    IndexOptions out;
    out.dim = given.dim;
    out.metric = parse_metric(text_or(given.metric, "cosine"));
    out.codec = codec_of(given.codec != nullptr ? given.codec : codec, given.codec_parameters,
                         "codec_parameters: the last value");
    out.rerank = codec_of(given.rerank != nullptr ? given.rerank : rerank, given.rerank_parameters,
                          "rerank_parameters: the last value");
    out.oversample = given.oversample != 0 ? given.oversample : oversample;
    return out;
}

// The value of a parameter, which lives as long as the codec.
const char* parameter_of(const CodecSpec& codec, const char* name) {
    const auto found = codec.parameters.find(std::string_view(required(name, "name")));
    return found != codec.parameters.end() ? found->second.c_str() : nullptr;
}

// What the options of a search say, but for its threads.
SearchOptions search_options_of(const nearfield_search_options& options) {
    SearchOptions out;
    if (options.filter != nullptr) out.filter = options.filter->filter.get();
    if (options.version != nullptr) out.version = options.version;
    if (options.oversample != 0) out.oversample = options.oversample;
    if (options.recall != 0) out.recall = options.recall;
    if (options.probes != 0) out.probes = options.probes;
    out.exhaustive = options.exact != 0;
    return out;
}

// Options of a build, whose vectors all have version "".
nearfield_write_options build_options_of(const nearfield_write_options* given) {
    const nearfield_write_options out = options_of(given);
    const std::string version = text_or(out.version, "");
    if (!version.empty()) throw InvalidInput("version: \"" + version + "\" given, expected none");
    return out;
}

// UTF-8 on every system.
std::filesystem::path path_of(const char* path) { return reinterpret_cast<const char8_t*>(required(path, "path")); }

template <class T>
void copy(const std::vector<T>& values, T* out) {
    std::copy(values.begin(), values.end(), out);
}

// Makes a handle, which is NULL after an error.
template <class Handle, class Make>
nearfield_status make(Handle** out, const char* name, const Make& make_value) noexcept {
    return guarded([&] {
        *required(out, name) = nullptr;
        *out = new Handle{make_value()};
    });
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// Library
// ---------------------------------------------------------------------------------------------------------------------

const char* nearfield_version(void) { return NEARFIELD_VERSION; }

int nearfield_abi_version(void) { return NEARFIELD_ABI_VERSION; }

const char* nearfield_cpu_level(void) {
    return value_of<const char*>([] { return kernels::active().name; });
}

const char* nearfield_last_error(void) { return last_error.c_str(); }

// ---------------------------------------------------------------------------------------------------------------------
// Making, opening and closing an index
// ---------------------------------------------------------------------------------------------------------------------

nearfield_status nearfield_create(const nearfield_index_options* options, nearfield_index** index) {
    return make(index, "index", [&] {
        const nearfield_index_options wanted = options_of(required(options, "options"));
        const std::string kind = text_or(wanted.kind, "flat");
        const bool lists = kind == "ivf";
        if (!lists && kind != "flat") {
            throw InvalidInput("kind: \"" + kind + "\" is not one of \"flat\", \"ivf\"");
        }
        const bool own = wanted.lists != 0 || wanted.probes != 0 || wanted.soar != 0 || wanted.list_dims != 0;
        if (!lists && own) throw InvalidInput("lists, probes, soar, list_dims: given for kind \"flat\"");
        if (!lists) {
            const IndexOptions common = common_options_of(wanted, "", "", 4);
            return std::unique_ptr<Index>(std::make_unique<Flat>(FlatOptions{common, wanted.no_screen == 0}));
        }
        const IndexOptions common = common_options_of(wanted, "rabitq1", "f16", 10);
        return std::unique_ptr<Index>(std::make_unique<Ivf>(
            IvfOptions{common, wanted.lists, wanted.probes, wanted.soar, wanted.list_dims, wanted.seed}));
    });
}

nearfield_status nearfield_open(const char* path, const nearfield_open_options* options, nearfield_index** index) {
    return make(index, "index", [&] {
        const nearfield_open_options wanted = options_of(options);
        if (wanted.mmap < 0 || wanted.mmap > 2) {
            throw InvalidInput("mmap: " + std::to_string(wanted.mmap) + " given, expected 0, 1 or 2");
        }
        return Index::load(
            Container::open(path_of(path), wanted.mmap != 0, wanted.verify != 0, wanted.mmap == 2 ? "rerank" : ""));
    });
}

nearfield_status nearfield_open_memory(const void* data, size_t bytes, nearfield_index** index) {
    return make(index, "index", [&] {
        const auto* first = static_cast<const std::byte*>(array_of(data, bytes, "data"));
        return Index::load(Container::from_bytes({first, bytes}));
    });
}

void nearfield_close(nearfield_index* index) { delete index; }

// ---------------------------------------------------------------------------------------------------------------------
// Changing an index
// ---------------------------------------------------------------------------------------------------------------------

nearfield_status nearfield_train(nearfield_index* index, const nearfield_vectors* sample,
                                 const nearfield_learned* given, size_t n_given, const char* version) {
    return guarded([&] {
        Index& own = index_of(index);
        Learned learned;
        array_of(given, n_given, "given");
        for (const nearfield_learned& one : std::span(given, n_given)) {
            const char* name = required(one.name, "given: name");
            array_of(one.data, one.n, name);
            learned[name].assign(one.data, one.data + one.n);
        }
        own.train(vectors_of(sample, "sample"), text_or(version, ""), std::move(learned), {});
    });
}

nearfield_status nearfield_add(nearfield_index* index, const nearfield_vectors* vectors, const int64_t* ids,
                               int64_t* given, const nearfield_write_options* options) {
    return guarded([&] {
        Index& own = index_of(index);
        const nearfield_write_options wanted = options_of(options);
        const std::vector<int64_t> added =
            own.add(vectors_of(vectors, "vectors"), ids, text_or(wanted.version, ""), {}, {wanted.threads, nullptr});
        if (given != nullptr) copy(added, given);
    });
}

nearfield_status nearfield_update(nearfield_index* index, const int64_t* ids, const nearfield_vectors* vectors,
                                  const nearfield_write_options* options) {
    return guarded([&] {
        Index& own = index_of(index);
        const Vectors values = vectors_of(vectors, "vectors");
        own.update(array_of(ids, values.n, "ids"), values, {options_of(options).threads, nullptr});
    });
}

nearfield_status nearfield_remove(nearfield_index* index, const int64_t* ids, size_t n) {
    return guarded([&] { index_of(index).remove(array_of(ids, n, "ids"), n); });
}

nearfield_status nearfield_build(const nearfield_index* index, const nearfield_vectors* source, const char* path,
                                 uint64_t memory_budget, const nearfield_write_options* options) {
    return guarded([&] {
        const Ivf& own = ivf_of(index);
        const Vectors vectors = vectors_of(source, "source");
        own.build(vectors, path_of(path), memory_budget, {build_options_of(options).threads, nullptr});
    });
}

nearfield_status nearfield_build_from(const nearfield_index* index, nearfield_read_function read, void* context,
                                      const char* path, uint64_t memory_budget,
                                      const nearfield_write_options* options) {
    return guarded([&] {
        const Ivf& own = ivf_of(index);
        required(read, "read");
        const auto next = [&]() -> std::optional<Vectors> {
            nearfield_vectors batch{};
            expect_success(read(context, &batch), "read");
            if (batch.n == 0) return std::nullopt;
            return vectors_of(&batch, "batch");
        };
        own.build(next, path_of(path), memory_budget, {build_options_of(options).threads, nullptr});
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Searching
// ---------------------------------------------------------------------------------------------------------------------

nearfield_status nearfield_filter_ids(const nearfield_index* index, const int64_t* ids, size_t n,
                                      nearfield_filter** filter) {
    return make(filter, "filter", [&] { return index_of(index).filter_of_ids(array_of(ids, n, "ids"), n); });
}

nearfield_status nearfield_filter_mask(const nearfield_index* index, const uint8_t* mask, size_t n,
                                       nearfield_filter** filter) {
    return make(filter, "filter", [&] {
        const Index& own = index_of(index);
        array_of(mask, n, "mask");
        const auto allowed = std::make_unique<bool[]>(n);
        std::transform(mask, mask + n, allowed.get(), [](uint8_t byte) { return byte != 0; });
        return own.filter_of_mask(allowed.get(), n);
    });
}

void nearfield_filter_free(nearfield_filter* filter) { delete filter; }

nearfield_status nearfield_search(const nearfield_index* index, const nearfield_vectors* queries, size_t k,
                                  const nearfield_search_options* options, int64_t* ids, float* scores,
                                  int64_t* counts) {
    return guarded([&] {
        const Index& own = index_of(index);
        const Vectors vectors = vectors_of(queries, "queries");
        const nearfield_search_options wanted = options_of(options);
        const size_t places = std::min(vectors.n, k);  // 0 if either is
        array_of(ids, places, "ids");
        array_of(scores, places, "scores");
        const SearchResult result = own.search(vectors, k, search_options_of(wanted), {wanted.threads, nullptr});
        copy(result.ids, ids);
        copy(result.scores, scores);
        if (counts != nullptr) copy(result.counts, counts);
    });
}

nearfield_status nearfield_range_search(const nearfield_index* index, const nearfield_vectors* queries, double radius,
                                        const nearfield_search_options* options, nearfield_range_hits** hits) {
    return make(hits, "hits", [&] {
        const Index& own = index_of(index);
        const nearfield_search_options wanted = options_of(options);
        return own.range_search(vectors_of(queries, "queries"), radius, search_options_of(wanted),
                                {wanted.threads, nullptr});
    });
}

const int64_t* nearfield_range_hits_offsets(const nearfield_range_hits* hits) {
    return hits != nullptr ? hits->result.offsets.data() : nullptr;
}

const int64_t* nearfield_range_hits_ids(const nearfield_range_hits* hits) {
    return hits != nullptr ? hits->result.ids.data() : nullptr;
}

const float* nearfield_range_hits_scores(const nearfield_range_hits* hits) {
    return hits != nullptr ? hits->result.scores.data() : nullptr;
}

void nearfield_range_hits_free(nearfield_range_hits* hits) { delete hits; }

nearfield_status nearfield_score(const nearfield_index* index, const nearfield_vectors* queries, const int64_t* ids,
                                 size_t m, int per_query, size_t threads, float* scores) {
    return guarded([&] {
        const Index& own = index_of(index);
        const Vectors vectors = vectors_of(queries, "queries");
        const size_t places = std::min(vectors.n, m);  // 0 if either is
        array_of(ids, per_query != 0 ? places : m, "ids");
        array_of(scores, places, "scores");
        copy(own.score(vectors, ids, m, per_query != 0, std::nullopt, {threads, nullptr}), scores);
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Declared recall
// ---------------------------------------------------------------------------------------------------------------------

nearfield_status nearfield_set_tuning(nearfield_index* index, const nearfield_tuning_entry* entries, size_t n, size_t k,
                                      size_t queries) {
    return guarded([&] {
        Index& own = index_of(index);
        Tuning tuning{k, "given", queries, {}};
        array_of(entries, n, "entries");
        for (const nearfield_tuning_entry& entry : std::span(entries, n)) {
            tuning.table.push_back({entry.recall, entry.measured, entry.oversample, entry.probes});
        }
        own.set_tuning(std::move(tuning));
    });
}

size_t nearfield_tuning_size(const nearfield_index* index) {
    return value_of<size_t>([&] { return index_of(index).tuning().table.size(); });
}

nearfield_status nearfield_tuning(const nearfield_index* index, nearfield_tuning_entry* entries, size_t n) {
    return guarded([&] {
        const std::vector<Tuning::Entry> table = index_of(index).tuning().table;
        check_count(n, table.size(), "entries of tuning");
        array_of(entries, n, "entries");
        std::transform(table.begin(), table.end(), entries, [](const Tuning::Entry& entry) {
            return nearfield_tuning_entry{entry.recall, entry.measured, entry.oversample, entry.probes};
        });
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Looking into an index
// ---------------------------------------------------------------------------------------------------------------------

const char* nearfield_kind(const nearfield_index* index) {
    return value_of<const char*>([&] { return index_of(index).kind().data(); });
}

const char* nearfield_metric(const nearfield_index* index) {
    return value_of<const char*>([&] { return metric_name(index_of(index).options().metric).data(); });
}

const char* nearfield_codec(const nearfield_index* index) {
    return value_of<const char*>([&] { return index_of(index).options().codec.name.c_str(); });
}

const char* nearfield_codec_parameter(const nearfield_index* index, const char* name) {
    return value_of<const char*>([&] { return parameter_of(index_of(index).options().codec, name); });
}

const char* nearfield_rerank(const nearfield_index* index) {
    return value_of<const char*>([&] { return index_of(index).options().rerank.name.c_str(); });
}

const char* nearfield_rerank_parameter(const nearfield_index* index, const char* name) {
    return value_of<const char*>([&] { return parameter_of(index_of(index).options().rerank, name); });
}

size_t nearfield_dim(const nearfield_index* index) {
    return value_of<size_t>([&] { return index_of(index).options().dim; });
}

size_t nearfield_size(const nearfield_index* index) {
    return value_of<size_t>([&] { return index_of(index).size(); });
}

size_t nearfield_nbytes(const nearfield_index* index) {
    return value_of<size_t>([&] { return index_of(index).nbytes(); });
}

int nearfield_contains(const nearfield_index* index, int64_t id) {
    return value_of<int>([&] { return index_of(index).contains(id) ? 1 : 0; });
}

size_t nearfield_lists(const nearfield_index* index) {
    return value_of<size_t>([&] {
        const auto* ivf = dynamic_cast<const Ivf*>(&index_of(index));
        return ivf != nullptr ? ivf->lists() : 0;
    });
}

nearfield_status nearfield_ids(const nearfield_index* index, int64_t* ids, size_t n) {
    return guarded([&] {
        const std::vector<int64_t> all = index_of(index).ids();
        check_count(n, all.size(), "vectors");
        copy(all, array_of(ids, n, "ids"));
    });
}

size_t nearfield_code_bytes(const nearfield_index* index) {
    return value_of<size_t>([&] { return index_of(index).code_bytes(); });
}

nearfield_status nearfield_codes(const nearfield_index* index, const int64_t* ids, size_t n, uint8_t* codes) {
    return guarded([&] {
        const Index& own = index_of(index);
        array_of(codes, n, "codes");
        copy(own.codes(array_of(ids, n, "ids"), n), codes);
    });
}

nearfield_status nearfield_reconstruct(const nearfield_index* index, const int64_t* ids, size_t n, float* vectors) {
    return guarded([&] {
        const Index& own = index_of(index);
        array_of(vectors, n, "vectors");
        copy(own.reconstruct(array_of(ids, n, "ids"), n), vectors);
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Saving
// ---------------------------------------------------------------------------------------------------------------------

nearfield_status nearfield_save(const nearfield_index* index, const char* path) {
    return guarded([&] { index_of(index).save(path_of(path)); });
}

nearfield_status nearfield_save_to(const nearfield_index* index, nearfield_write_function write, void* context) {
    return guarded([&] {
        required(write, "write");
        index_of(index).save(
            [&](const std::byte* data, size_t bytes) { expect_success(write(context, data, bytes), "write"); });
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Clustering
// ---------------------------------------------------------------------------------------------------------------------

nearfield_status nearfield_kmeans(const nearfield_vectors* vectors, const nearfield_kmeans_options* options,
                                  float* centroids, uint32_t* labels, double* inertia) {
    return guarded([&] {
        const Vectors given = vectors_of(vectors, "vectors");
        const nearfield_kmeans_options wanted = options_of(required(options, "options"));
        required(centroids, "centroids");
        if (given.dim == 0) throw InvalidInput("vectors: dimension 0 given, expected at least 1");
        if (wanted.k == 0 || wanted.k > given.n) {
            throw InvalidInput("k: " + std::to_string(wanted.k) + " given, expected 1 to the number of vectors, " +
                               std::to_string(given.n));
        }
        if (wanted.capacity != 0 && !(wanted.capacity >= 1)) {
            throw InvalidInput("capacity: " + std::to_string(wanted.capacity) + " given, expected at least 1");
        }
        if (wanted.capacity != 0 && wanted.sinkhorn != 0) throw InvalidInput("capacity: given together with sinkhorn");
        const CheckedVectors checked = CheckedVectors::floats(given, given.dim, "vectors");
        if (wanted.init != nullptr) check_finite(wanted.init, wanted.k, given.dim, "init", 0);
        KMeansOptions own;
        own.k = wanted.k;
        if (wanted.iterations != 0) own.iterations = wanted.iterations;
        own.spherical = wanted.spherical != 0;
        if (wanted.capacity != 0) {
            own.balance = Balance::capacity;
            own.slack = wanted.capacity;
        }
        if (wanted.sinkhorn != 0) own.balance = Balance::sinkhorn;
        constexpr size_t kSample = 1024;
        own.sample = wanted.sample != 0 ? wanted.sample : kSample;
        own.seed = wanted.seed;
        own.init = wanted.init;
        const Clustering found =
            kmeans_cluster(checked.view().floats(), given.n, given.dim, own, {wanted.threads, nullptr});
        copy(found.centroids, centroids);
        if (labels != nullptr) copy(found.labels, labels);
        if (inertia != nullptr) *inertia = found.inertia;
    });
}
