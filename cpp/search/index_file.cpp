// Files of indexes.
#include <charconv>
#include <iomanip>
#include <limits>
#include <locale>
#include <numeric>
#include <sstream>

#include "search/flat.hpp"
#include "search/index_file.hpp"
#include "search/index_state.hpp"
#include "search/ivf.hpp"

namespace nearfield {

using kernels::kGroup;

namespace {

constexpr uint64_t kFormatVersion = 1;
constexpr std::string_view kRerankPrefix = "rerank.";  // of what the finer codec has learned

}  // namespace

std::string decimal(double value) {
    std::ostringstream text;
    text.imbue(std::locale::classic());
    text << std::setprecision(17) << value;
    return text.str();
}

TensorType stored_type(const Codec& codec) {
    if (codec.name() == "f32") return TensorType::f32;
    if (codec.name() == "f16") return TensorType::f16;
    return codec.name() == "bf16" ? TensorType::u16 : TensorType::u8;
}

std::vector<uint64_t> shape_of(const CodeStore& store, TensorType type, size_t n) {
    return {(n + store.group() - 1) / store.group(), store.unit_bytes() / element_bytes(type)};
}

const Tensor& expect(const Container& file, std::string_view name, TensorType type, std::vector<uint64_t> shape) {
    const Tensor& tensor = file.tensor(name);
    if (tensor.type != type || tensor.shape != shape) {
        std::string wanted;
        for (const uint64_t size : shape) wanted += (wanted.empty() ? "" : ", ") + std::to_string(size);
        throw FileFormatError(file.name() + ": tensor \"" + std::string(name) + "\" is not " +
                              std::string(type_name(type)) + " (" + wanted + ")");
    }
    return tensor;
}

uint64_t number(const Container& file, std::string_view key) {
    const std::string& text = file.metadata(key);
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) {
        throw FileFormatError(file.name() + ": metadata \"" + std::string(key) + "\" is \"" + text +
                              "\", expected a number");
    }
    return value;
}

std::vector<double> reals(const Container& file, std::string_view key, size_t n) {
    std::istringstream text(file.metadata(key));
    text.imbue(std::locale::classic());
    std::vector<double> out(n);
    for (double& value : out) text >> value;
    if (!text || text.peek() != EOF) {
        throw FileFormatError(file.name() + ": metadata \"" + std::string(key) + "\" is \"" + text.str() +
                              "\", expected " + (n == 1 ? "a number" : std::to_string(n) + " numbers"));
    }
    return out;
}

void add_rows(std::vector<TensorSource>& tensors, const std::string& name, const Codec& codec, const CodeStore& store,
              const CodeStore::Tail& tail, size_t n) {
    const TensorType type = stored_type(codec);
    tensors.push_back({name, type, shape_of(store, type, n), store.pieces(tail, n)});
}

const std::byte* stored_rows(const Container& file, std::string_view name, const Codec& codec, const CodeStore& store,
                             size_t n) {
    const TensorType type = stored_type(codec);
    const Tensor& tensor = expect(file, name, type, shape_of(store, type, n));
    if (tensor.read && store.group() == 1 && !codec.valid({tensor.data, codec.row_bytes()}, n)) {
        throw FileFormatError(file.name() + ": tensor \"" + std::string(name) + "\" has ones in its padding bits");
    }
    return tensor.data;
}

namespace {

// What a version's codec has learned.
std::string learned_name(size_t version, std::string_view name) {
    return "learned." + std::to_string(version) + "." + std::string(name);
}

Tuning load_tuning(const Container& file) {
    Tuning out;
    if (!file.metadata().contains("tuning.k")) return out;
    out.k = number(file, "tuning.k");
    out.queries = file.metadata("tuning.queries");
    out.n = number(file, "tuning.n");
    for (std::string key = "tuning.0"; file.metadata().contains(key);
         key = "tuning." + std::to_string(out.table.size())) {
        const std::vector<double> entry = reals(file, key, 3);
        out.table.push_back({entry[0], entry[1], entry[2]});
        const std::string probes = key + ".probes";
        if (file.metadata().contains(probes)) out.table.back().probes = number(file, probes);
    }
    return out;
}

// Which rows belong to which version, and what was learned for each. Files from before there were versions hold one.
std::shared_ptr<const Versions> load_versions(const Container& file, const std::shared_ptr<const Codec>& codec,
                                              const std::shared_ptr<const Codec>& rerank, size_t rows) {
    auto out = std::make_shared<Versions>();
    const bool known = file.metadata().contains("versions");
    const uint64_t count = known ? number(file, "versions") : rows > 0 ? 1 : 0;
    if (count > file.metadata().size() && known) throw FileFormatError(file.name() + ": versions are missing");
    for (size_t v = 0; v < count; ++v) {
        Version made{"", codec, rerank};
        const bool finer = rerank && rerank->untrained();
        if (codec->untrained() || finer) {
            Learned learned, learned_finer;
            const std::string prefix = learned_name(v, "");
            for (const Tensor& tensor : file.tensors()) {
                if (!tensor.name.starts_with(prefix)) continue;
                const Tensor& found = expect(file, tensor.name, TensorType::f32, {tensor.bytes / sizeof(float)});
                const auto* values = reinterpret_cast<const float*>(found.data);
                std::string name = tensor.name.substr(prefix.size());
                const bool of_finer = name.starts_with(kRerankPrefix);
                if (of_finer) name.erase(0, kRerankPrefix.size());
                (of_finer ? learned_finer : learned)[name].assign(values, values + found.bytes / sizeof(float));
            }
            try {
                if (codec->untrained()) made.codec = codec->with(std::move(learned));
                if (finer) made.rerank = rerank->with(std::move(learned_finer));
            } catch (const InvalidInput& e) {
                throw FileFormatError(file.name() + ": version " + std::to_string(v) + ": " + e.what());
            }
        }
        if (known) made.name = file.metadata("version." + std::to_string(v));
        if (out->find(made.name) < v) {
            throw FileFormatError(file.name() + ": two versions are called \"" + made.name + "\"");
        }
        out->all.push_back(std::move(made));
    }
    if (rows > 0 && count == 0) throw FileFormatError(file.name() + ": the rows belong to no version");
    if (count == 1) {
        if (rows > 0) out->append(0, 0);
    } else if (count > 1) {
        const Tensor& tensor = file.tensor("version_rows");
        const uint64_t runs = tensor.bytes / sizeof(Versions::Rows);
        const auto* values =
            reinterpret_cast<const Versions::Rows*>(expect(file, "version_rows", TensorType::u32, {runs, 2}).data);
        out->rows.assign(values, values + runs);
        for (size_t i = 0; i < runs; ++i) {
            const bool ordered = i == 0 ? values[i].first == 0 : values[i].first > values[i - 1].first;
            if (!ordered || values[i].first >= rows || values[i].version >= count) {
                throw FileFormatError(file.name() + ": tensor \"version_rows\" is out of order");
            }
        }
        if (rows > 0 && runs == 0) throw FileFormatError(file.name() + ": the rows belong to no version");
    }
    return out;
}

}  // namespace

template <class Write>
void Index::write(const Write& write) const {
    const std::lock_guard lock(writer_);
    if (snapshot().live.dead_count > 0) publish(compacted(snapshot()));
    const Snapshot now = snapshot();
    Description out;
    describe(now, out);
    describe_rows(now, out);
    write(out.tensors, out.metadata);
}

void Index::describe_rows(const Snapshot& now, Description& out) const {
    const State& state = *now.state;
    const size_t count = now.live.count;
    out.metadata.merge(Metadata{
        {"format_version", std::to_string(kFormatVersion)},
        {"library_version", NEARFIELD_VERSION},
        {"kind", std::string(kind())},
        {"metric", std::string(metric_name(options_.metric))},
        {"dim", std::to_string(options_.dim)},
        {"rows", std::to_string(count)},
        {"codec", options_.codec.name},
        {"rerank", options_.rerank.name},
        {"oversample", decimal(options_.oversample)},
        {"next_id", std::to_string(state.next_id)},
    });
    for (const auto& [name, value] : options_.codec.parameters) out.metadata["codec." + name] = value;
    for (const auto& [name, value] : options_.rerank.parameters) out.metadata["rerank." + name] = value;
    if (!now.tuning->table.empty()) {
        out.metadata["tuning.k"] = std::to_string(now.tuning->k);
        out.metadata["tuning.queries"] = now.tuning->queries;
        out.metadata["tuning.n"] = std::to_string(now.tuning->n);
        for (size_t i = 0; i < now.tuning->table.size(); ++i) {
            const Tuning::Entry& entry = now.tuning->table[i];
            const std::string key = "tuning." + std::to_string(i);
            out.metadata[key] = decimal(entry.recall) + " " + decimal(entry.measured) + " " + decimal(entry.oversample);
            if (entry.probes > 0) out.metadata[key + ".probes"] = std::to_string(entry.probes);
        }
    }
    if (options_.codec.name == "int8" || options_.rerank.name == "int8") {
        out.metadata["int8_row"] = "I8 at 0, F32 scale at " + std::to_string(options_.dim);
    }
    const auto add_floats = [&](const std::string& name, std::vector<float> values) {
        const auto kept = std::make_shared<const std::vector<float>>(std::move(values));
        out.kept.push_back(kept);
        out.tensors.push_back({name, TensorType::f32, {kept->size()}, {bytes_of(*kept)}});
    };
    if (state.rerank) add_rows(out.tensors, "rerank", *rerank_, *state.rerank, {}, count);
    const std::vector<Version>& versions = now.versions->all;
    out.metadata["versions"] = std::to_string(versions.size());
    for (size_t v = 0; v < versions.size(); ++v) {
        out.metadata["version." + std::to_string(v)] = versions[v].name;
        for (auto& [name, values] : versions[v].codec->learned()) add_floats(learned_name(v, name), values);
        if (!versions[v].rerank) continue;
        for (auto& [name, values] : versions[v].rerank->learned()) {
            add_floats(learned_name(v, std::string(kRerankPrefix) + name), values);
        }
    }
    if (versions.size() > 1) {
        const auto& runs = now.versions->rows;
        out.tensors.push_back({"version_rows", TensorType::u32, {runs.size(), 2}, {std::as_bytes(std::span(runs))}});
    }
    if (state.ids->is_explicit()) {
        const auto sorted = std::make_shared<const std::vector<uint32_t>>(state.ids->sorted_rows(count));
        out.kept.push_back(sorted);
        out.tensors.push_back({"ids", TensorType::i64, {count}, state.ids->column().pieces(count)});
        out.tensors.push_back({"ids_order", TensorType::u32, {count}, {bytes_of(*sorted)}});
    }
}

void Index::save(const std::filesystem::path& path) const {
    write([&](const auto& tensors, const auto& metadata) { write_container(path, tensors, metadata); });
}

void Index::save(const std::function<void(const std::byte*, size_t)>& sink) const {
    write([&](const auto& tensors, const auto& metadata) { write_container(sink, tensors, metadata); });
}

std::unique_ptr<Index> Index::load(std::shared_ptr<const Container> file) {
    check_format_version(*file, kFormatVersion);
    const std::string& kind = file->metadata("kind");
    if (kind != "flat" && kind != "ivf") {
        throw FileFormatError(file->name() + ": holds an index of kind \"" + kind + "\", expected \"flat\" or \"ivf\"");
    }
    std::unique_ptr<Index> index;
    try {
        IndexOptions options;
        options.dim = number(*file, "dim");
        options.metric = parse_metric(file->metadata("metric"));
        options.codec.name = file->metadata("codec");
        options.rerank.name = file->metadata("rerank");
        for (auto& [prefix, parameters] : {std::pair{std::string_view("codec."), &options.codec.parameters},
                                           std::pair{std::string_view("rerank."), &options.rerank.parameters}}) {
            for (const auto& [key, value] : file->metadata()) {
                if (key.starts_with(prefix)) (*parameters)[key.substr(prefix.size())] = value;
            }
        }
        options.oversample = reals(*file, "oversample", 1)[0];
        if (options.codec.name.empty()) throw InvalidInput("metadata \"codec\" is empty");
        if (kind == "flat") {
            index = Flat::made_for(*file, std::move(options));
        } else {
            index = Ivf::made_for(*file, std::move(options));
        }
    } catch (const std::logic_error& e) {
        throw FileFormatError(file->name() + ": " + e.what());
    }
    const size_t count = number(*file, "rows");
    if (count > std::numeric_limits<uint32_t>::max()) throw FileFormatError(file->name() + ": too many rows");
    Snapshot loaded = index->snapshot();
    State& state = *loaded.state;
    if (index->rerank_) {
        const std::byte* rows = stored_rows(*file, "rerank", *index->rerank_, *state.rerank, count);
        state.rerank.emplace(*index->rerank_, CodeStore::Form::rows, rows, nullptr, count, file);
    }
    if (file->find("ids") != nullptr) {
        const Tensor& ids = expect(*file, "ids", TensorType::i64, {count});
        const Tensor& sorted = expect(*file, "ids_order", TensorType::u32, {count});
        state.ids = std::make_unique<IdMap>(reinterpret_cast<const int64_t*>(ids.data),
                                            reinterpret_cast<const uint32_t*>(sorted.data), count, file);
    }
    const uint64_t next_id = number(*file, "next_id");
    const int64_t largest = count == 0 ? -1 : state.ids->largest(count);
    constexpr auto kLast = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    if (next_id > kLast || (largest >= 0 && next_id <= static_cast<uint64_t>(largest) && next_id != kLast)) {
        throw FileFormatError(file->name() + ": metadata \"next_id\" is " + std::to_string(next_id) +
                              ", the largest id is " + std::to_string(largest));
    }
    state.next_id = static_cast<int64_t>(next_id);
    loaded.live.count = count;
    loaded.versions = load_versions(*file, index->codec_, index->rerank_, count);
    loaded.codes = index->load_codes(file, loaded);
    index->publish(std::move(loaded));
    if (Tuning tuning = load_tuning(*file); !tuning.table.empty()) {
        try {
            index->set_tuning(std::move(tuning));
        } catch (const InvalidInput& e) {
            throw FileFormatError(file->name() + ": " + e.what());
        }
    }
    return index;
}

}  // namespace nearfield
