// Ivf's part of files.
#include <cmath>
#include <limits>
#include <numeric>

#include "search/index_file.hpp"
#include "search/ivf_codes.hpp"

namespace nearfield {

void Ivf::describe_options(Description& out) const {
    out.metadata["lists"] = std::to_string(own_.lists);
    out.metadata["probes"] = std::to_string(own_.probes);
    out.metadata["soar"] = decimal(own_.soar);
    out.metadata["list_dims"] = std::to_string(own_.list_dims);
    out.metadata["seed"] = std::to_string(own_.seed);
}

// Lists lie one after the other: their codes in whole groups ("lists"), the corrections ("corrections", one for each
// place in a group, and the largest magnitude in each list) and fine bytes ("fine") of their rows, and the rows'
// numbers ("list_rows").
void Ivf::describe(const Snapshot& now, Description& out) const {
    const IvfCodes& codes = codes_of(now);
    describe_options(out);
    if (!codes.coarse) return;
    const size_t group = codec_->group(), lists = codes.lists.size();
    size_t groups = 0, entries = 0;
    auto sizes = std::make_shared<std::vector<uint32_t>>();
    for (const auto& list : codes.lists) {
        groups += codes.groups(*list);
        entries += list->size;
        sizes->push_back(static_cast<uint32_t>(list->size));
    }
    auto largest = std::make_shared<std::vector<float>>();
    std::vector<std::span<const std::byte>> coded, corrections, fine, rows;
    for (const auto& list : codes.lists) {
        largest->push_back(list->largest);
        if (list->size == 0) continue;
        coded.emplace_back(list->codes, codes.groups(*list) * codec_->group_bytes());
        rows.push_back(std::as_bytes(std::span(list->rows, list->size)));
        if (codes.residual)
            corrections.push_back(std::as_bytes(std::span(list->corrections, codes.groups(*list) * group)));
        if (codec_->fine_bytes() > 0) fine.emplace_back(list->fine, list->size * codec_->fine_bytes());
        out.kept.push_back(list);
    }
    out.tensors.push_back({"list_sizes", TensorType::u32, {lists}, {bytes_of(*sizes)}});
    out.kept.push_back(sizes);
    out.tensors.push_back(
        {"centroids", TensorType::f32, {lists, codes.coarse->dims()}, {bytes_of(codes.coarse->values())}});
    if (const CentroidGraph* graph = codes.coarse->graph()) {
        out.tensors.push_back({"list_graph",
                               TensorType::u32,
                               {CentroidGraph::rows(lists), CentroidGraph::kDegree},
                               {bytes_of(graph->edges())}});
    }
    out.tensors.push_back({"lists", TensorType::u8, {groups, codec_->group_bytes()}, std::move(coded)});
    out.tensors.push_back({"list_rows", TensorType::u32, {entries}, std::move(rows)});
    if (codes.residual) {
        out.tensors.push_back({"corrections", TensorType::f32, {groups, group}, std::move(corrections)});
        out.tensors.push_back({"largest_corrections", TensorType::f32, {lists}, {bytes_of(*largest)}});
        out.kept.push_back(largest);
    }
    if (codec_->fine_bytes() > 0) {
        out.tensors.push_back({"fine", TensorType::u8, {entries, codec_->fine_bytes()}, std::move(fine)});
    }
    if (codes.places)
        out.tensors.push_back({"places", TensorType::u32, {codes.count, 2}, codes.places->pieces(codes.count)});
}

std::unique_ptr<Ivf> Ivf::made_for(const Container& file, IndexOptions options) {
    IvfOptions own{std::move(options)};
    own.lists = number(file, "lists");
    own.probes = number(file, "probes");
    own.soar = reals(file, "soar", 1)[0];
    own.list_dims = number(file, "list_dims");
    own.seed = number(file, "seed");
    return std::make_unique<Ivf>(own);
}

void Ivf::IvfCodes::check_rows(const std::string& name) const {
    std::vector<uint32_t> at;
    std::vector<std::byte> rows;
    for (const auto& list : lists) {
        at.resize(list->size);
        std::iota(at.begin(), at.end(), 0u);
        rows.resize(list->size * layout->row_bytes());
        unpack(*list, at.data(), at.size(), rows.data());
        if (layout->valid({rows.data(), layout->row_bytes()}, at.size())) continue;
        throw FileFormatError(name + ": tensor \"lists\" holds rows that codec \"" + std::string(layout->name()) +
                              "\" does not make");
    }
}

std::shared_ptr<const Index::Codes> Ivf::load_codes(const std::shared_ptr<const Container>& file,
                                                    const Snapshot& loaded) const {
    auto codes = std::make_shared<IvfCodes>(codes_of(loaded));
    codes->count = loaded.live.count;
    const Tensor* centroids = file->find("centroids");
    if (centroids == nullptr) {
        if (codes->count > 0) throw FileFormatError(file->name() + ": tensor \"centroids\" is missing");
        return codes;
    }
    const size_t dims = own_.list_dims != 0 ? own_.list_dims : options_.dim,
                 lists = file->tensor("list_sizes").bytes / 4;
    if (lists == 0) throw FileFormatError(file->name() + ": tensor \"list_sizes\" is empty");
    const auto* sizes = reinterpret_cast<const uint32_t*>(expect(*file, "list_sizes", TensorType::u32, {lists}).data);
    const auto* values =
        reinterpret_cast<const float*>(expect(*file, "centroids", TensorType::f32, {lists, dims}).data);
    if (!std::all_of(values, values + lists * dims, [](float value) { return std::isfinite(value); })) {
        throw FileFormatError(file->name() + ": tensor \"centroids\" holds numbers that are not finite");
    }
    std::vector<uint32_t> edges;
    if (Coarse::has_graph(lists, dims)) {
        const uint64_t nodes = CentroidGraph::rows(lists);
        const Tensor& graph = expect(*file, "list_graph", TensorType::u32, {nodes, CentroidGraph::kDegree});
        const auto* first = reinterpret_cast<const uint32_t*>(graph.data);
        edges.assign(first, first + nodes * CentroidGraph::kDegree);
        if (!CentroidGraph::valid(edges, lists)) {
            throw FileFormatError(file->name() + ": tensor \"list_graph\" names lists that do not exist");
        }
    }
    codes->coarse = std::make_shared<const Coarse>(std::vector<float>(values, values + lists * dims), dims,
                                                   options_.metric, std::move(edges), Run{});
    const size_t group = codec_->group(), copies = own_.soar != 0 ? 2 : 1, fine_bytes = codec_->fine_bytes();
    uint64_t groups = 0, entries = 0;
    for (size_t i = 0; i < lists; ++i) {
        groups += (sizes[i] + group - 1) / group;
        entries += sizes[i];
    }
    if (entries != codes->count * copies) {
        throw FileFormatError(file->name() + ": the lists hold " + std::to_string(entries) + " entries, expected " +
                              std::to_string(codes->count * copies));
    }
    const std::byte* coded = expect(*file, "lists", TensorType::u8, {groups, codec_->group_bytes()}).data;
    const Tensor& numbers = expect(*file, "list_rows", TensorType::u32, {entries});
    const auto* rows = reinterpret_cast<const uint32_t*>(numbers.data);
    const float *corrections = nullptr, *largest = nullptr;
    if (codes->residual) {
        largest = reinterpret_cast<const float*>(expect(*file, "largest_corrections", TensorType::f32, {lists}).data);
        corrections =
            reinterpret_cast<const float*>(expect(*file, "corrections", TensorType::f32, {groups, group}).data);
    }
    const std::byte* fine =
        fine_bytes > 0 ? expect(*file, "fine", TensorType::u8, {entries, fine_bytes}).data : nullptr;
    // Of a mapped file this is checked where it is used.
    if (numbers.read && std::any_of(rows, rows + entries, [&](uint32_t row) { return row >= codes->count; })) {
        throw FileFormatError(file->name() + ": tensor \"list_rows\" names rows that do not exist");
    }
    codes->lists.clear();
    for (size_t i = 0; i < lists; ++i) {
        auto list = std::make_shared<List>();
        list->size = sizes[i];
        list->codes = coded;
        list->corrections = corrections;
        list->fine = fine;
        list->rows = rows;
        if (largest != nullptr) list->largest = largest[i];
        list->owner = file;
        const size_t own = (sizes[i] + group - 1) / group;
        coded += own * codec_->group_bytes();
        rows += sizes[i];
        if (corrections != nullptr) corrections += own * group;
        if (fine != nullptr) fine += sizes[i] * fine_bytes;
        codes->lists.push_back(std::move(list));
    }
    if (file->tensor("lists").read) codes->check_rows(file->name());
    if (!file->tensor("lists").read) {
        // A search reads the lists that it visits, and asks for these.
        for (const char* name : {"lists", "corrections", "fine", "list_rows", "places", "rerank", "ids", "ids_order"}) {
            file->advise_random(name);
        }
        codes->mapped = file;
    }
    if (codes->places) {
        const std::byte* places = expect(*file, "places", TensorType::u32, {codes->count, 2}).data;
        codes->places = std::make_shared<RowStore>(sizeof(IvfCodes::Place), places, codes->count, file);
    }
    return codes;
}

}  // namespace nearfield
