// Ivf's builds in bounded memory: passes over the vectors, an external sort of the codes by list, and a file that is
// written in place.
#include <algorithm>
#include <cstring>
#include <limits>

#include "search/index_file.hpp"
#include "search/ivf_codes.hpp"
#include "storage/container_builder.hpp"
#include "storage/file.hpp"

namespace nearfield {

namespace {

// Vectors that are read together, at most.
constexpr size_t kChunk = 4096;
// Shares of the memory budget: vectors that are read together (of which there are copies), vectors that centroids start
// from with what k-means keeps beside them, and codes that are sorted together.
constexpr size_t kChunkShare = 24, kRunShare = 4;
constexpr double kStartShare = 1.5;
// Rounds of k-means over all of the sample, which is read again in each.
constexpr size_t kPasses = 12;
// Vectors that a codec learns from, at most.
constexpr size_t kCodecSample = 4096;

}  // namespace

// Vectors that can be read again and again: the caller's, or those that an iterator has spooled to a file.
class Ivf::Source {
  public:
    Source(const Vectors& vectors, size_t budget)
        : given_(vectors), n_(vectors.n), dim_(vectors.dim), chunk_(chunk_for(vectors.dim, budget)) {}
    Source(const Next& next, size_t dim, const std::filesystem::path& directory, size_t budget)
        : n_(0), dim_(dim), chunk_(chunk_for(dim, budget)) {
        file_.emplace(directory);
        while (const std::optional<Vectors> batch = next()) {
            check_dim(*batch, dim, "source");
            for (size_t first = 0; first < batch->n; first += chunk_) {
                checkpoint();
                const size_t n = std::min(chunk_, batch->n - first);
                const CheckedVectors checked = CheckedVectors::floats(batch->part(first, n), dim, "source", n_);
                file_->append(checked.view().data, n * dim * sizeof(float));
                n_ += n;
            }
        }
    }

    size_t n() const { return n_; }
    size_t chunk() const { return chunk_; }

    // Rows first, first + step, ... as float32, checked.
    void read(size_t first, size_t step, size_t n, float* out) const {
        if (!file_) {
            for (size_t i = 0; i < n; ++i) {
                const size_t row = first + i * step;
                const CheckedVectors checked = CheckedVectors::floats(given_.part(row, 1), dim_, "source", row);
                std::copy_n(checked.view().floats(), dim_, out + i * dim_);
            }
            return;
        }
        const size_t bytes = dim_ * sizeof(float);
        if (step == 1) {
            file_->read(first * bytes, reinterpret_cast<std::byte*>(out), n * bytes);
            return;
        }
        for (size_t i = 0; i < n; ++i) {
            file_->read((first + i * step) * bytes, reinterpret_cast<std::byte*>(out + i * dim_), bytes);
        }
    }

    // Calls work(first, vectors (n, dim)) for every `step`-th vector, in order.
    template <class Work>
    void for_each_chunk(size_t step, const Run& run, const Work& work) const {
        std::vector<float> rows(std::min(chunk_, n_) * dim_);
        const size_t count = (n_ + step - 1) / step;
        for (size_t first = 0; first < count; first += chunk_) {
            if (run.poll && !run.poll(static_cast<double>(first) / static_cast<double>(count))) throw Interrupted{};
            const size_t n = std::min(chunk_, count - first);
            read(first * step, step, n, rows.data());
            work(first, Vectors{reinterpret_cast<const std::byte*>(rows.data()), kernels::kF32, n, dim_,
                                dim_ * sizeof(float)});
        }
    }

  private:
    static size_t chunk_for(size_t dim, size_t budget) {
        return std::clamp<size_t>(budget / kChunkShare / (dim * sizeof(float)), 64, kChunk);
    }

    Vectors given_{};
    std::optional<storage::ScratchFile> file_;
    size_t n_, dim_, chunk_;
};

namespace {

// Entries of lists (codes with what goes with them), sorted by list on the disk. They are put in run by run, each of
// which is sorted in memory.
class SortedEntries {
  public:
    SortedEntries(const std::filesystem::path& directory, size_t bytes, size_t lists, size_t per_run)
        : file_(directory), bytes_(bytes), lists_(lists), per_run_(per_run) {}

    void put(uint32_t list, const std::byte* entry) {
        labels_.push_back(list);
        entries_.insert(entries_.end(), entry, entry + bytes_);
        if (labels_.size() == per_run_) flush();
    }
    void flush() {
        if (labels_.empty()) return;
        const ByList by_list(labels_, lists_);
        for (const uint32_t at : by_list.order) file_.append(entries_.data() + at * bytes_, bytes_);
        std::vector<uint32_t>& starts = starts_.emplace_back();
        for (const size_t start : by_list.starts) starts.push_back(static_cast<uint32_t>(start));
        labels_.clear();
        entries_.clear();
    }
    // The entries of one list, in the order in which they were put.
    void read(size_t list, std::vector<std::byte>& out) const {
        out.clear();
        uint64_t run = 0;
        for (const auto& starts : starts_) {
            const size_t bytes = (starts[list + 1] - starts[list]) * bytes_, used = out.size();
            out.resize(used + bytes);
            if (bytes > 0) file_.read((run + starts[list]) * bytes_, out.data() + used, bytes);
            run += starts.back();
        }
    }

  private:
    storage::ScratchFile file_;
    size_t bytes_, lists_, per_run_;
    std::vector<uint32_t> labels_;
    std::vector<std::byte> entries_;
    std::vector<std::vector<uint32_t>> starts_;  // of the lists in each run
};

}  // namespace

void Ivf::build(const Next& next, const std::filesystem::path& path, size_t budget, const Run& run) const {
    const std::filesystem::path directory = path.has_parent_path() ? path.parent_path() : ".";
    build(Source(next, options_.dim, directory, budget), path, budget, run);
}

void Ivf::build(const Vectors& vectors, const std::filesystem::path& path, size_t budget, const Run& run) const {
    check_dim(vectors, options_.dim, "source");
    build(Source(vectors, budget), path, budget, run);
}

// Centroids and codecs, learned from a sample that is read in chunks.
void Ivf::learn_from(const Source& source, size_t budget, Snapshot& next, Version& made, const Run& run) const {
    const size_t dim = options_.dim, dims = own_.list_dims != 0 ? own_.list_dims : dim;
    const size_t lists = lists_for(source.n());
    // What k-means keeps for a point: the floats, twice for those it starts from, a code of 8 bits, and a few numbers.
    const size_t point_bytes = dims * (2 * sizeof(float) + 1) + 64;
    const size_t sample = std::min(source.n(), lists * kPointsPerList);
    const auto room = static_cast<size_t>(static_cast<double>(budget) / kStartShare);
    const size_t most = std::max<size_t>(1, room / point_bytes);
    const size_t start = std::min(sample, most);
    if (start < lists) {
        throw InvalidInput(
            "memory_budget: " + std::to_string(budget) + " bytes given, expected at least " +
            std::to_string(static_cast<size_t>(static_cast<double>(lists * point_bytes) * kStartShare) + 1) + " for " +
            std::to_string(lists) + " lists");
    }
    const auto step_for = [&](size_t n) { return (source.n() + n - 1) / n; };
    std::vector<float> centroids;
    {
        const size_t step = step_for(start);
        std::vector<float> points((source.n() + step - 1) / step * dims);
        source.for_each_chunk(step, {}, [&](size_t first, const Vectors& rows) {
            load_compared(rows, dims, options_.metric, points.data() + first * dims);
        });
        centroids = kmeans_cluster(points.data(), points.size() / dims, dims, clustering(lists), part_of(run, 0, 0.3))
                        .centroids;
    }
    const size_t step = step_for(sample);
    for (size_t pass = 0; pass < kPasses && start < sample; ++pass) {
        const Centroids nearest(std::move(centroids), dims);
        std::vector<double> sums(lists * dims);
        std::vector<size_t> members(lists);
        std::vector<float> points(source.chunk() * dims);
        std::vector<uint32_t> labels(source.chunk());
        const auto share = [&](size_t p) { return 0.3 + 0.7 * static_cast<double>(p) / kPasses; };
        source.for_each_chunk(step, part_of(run, share(pass), share(pass + 1)), [&](size_t, const Vectors& rows) {
            load_compared(rows, dims, options_.metric, points.data());
            nearest.assign(points.data(), rows.n, labels.data(), nullptr, {run.threads, nullptr});
            for (size_t i = 0; i < rows.n; ++i) {
                double* sum = sums.data() + labels[i] * dims;
                for (size_t d = 0; d < dims; ++d) sum[d] += static_cast<double>(points[i * dims + d]);
                ++members[labels[i]];
            }
        });
        centroids = nearest.values();
        for (size_t i = 0; i < centroids.size(); ++i) {
            const size_t n = members[i / dims];
            if (n > 0) centroids[i] = static_cast<float>(sums[i] / static_cast<double>(n));
        }
    }
    const size_t codec_sample = std::min({source.n(), kCodecSample, std::max<size_t>(256, most / 4)});
    const size_t codec_step = step_for(codec_sample);
    std::vector<float> some((source.n() + codec_step - 1) / codec_step * dim);
    source.for_each_chunk(codec_step, {}, [&](size_t first, const Vectors& rows) {
        std::copy_n(rows.floats(), rows.n * dim, some.data() + first * dim);
    });
    learn_codecs(
        next, made, std::move(centroids),
        {reinterpret_cast<const std::byte*>(some.data()), kernels::kF32, some.size() / dim, dim, dim * sizeof(float)},
        {}, {run.threads, nullptr});
}

void Ivf::build(const Source& source, const std::filesystem::path& path, size_t budget, const Run& run) const {
    Snapshot now = snapshot();
    if (now.live.count > 0) throw InvalidInput("build: the index holds vectors, expected an empty one");
    const size_t n = source.n(), copies = own_.soar != 0 ? 2 : 1;
    if (n == 0) throw InvalidInput("source: no vectors given");
    if (n > std::numeric_limits<uint32_t>::max()) throw InvalidInput("source: an index holds at most 4294967295 rows");
    const size_t kept = n * (copies * sizeof(uint32_t) + (codes_of(now).places ? sizeof(IvfCodes::Place) : 0));
    if (kept > budget / 2) {
        throw InvalidInput("memory_budget: " + std::to_string(budget) + " bytes given, expected at least " +
                           std::to_string(2 * kept) + " for " + std::to_string(n) + " vectors");
    }
    if (now.versions->all.empty()) {
        Version made{"", codec_, rerank_};
        learn_from(source, budget, now, made, part_of(run, 0, 0.5));
        auto versions = std::make_shared<Versions>();
        versions->all.push_back(std::move(made));
        now.versions = std::move(versions);
    }
    const IvfCodes& codes = codes_of(now);
    const Version& version = now.versions->all[0];
    const Coarse& coarse = *codes.coarse;
    const size_t lists = coarse.lists(), dims = coarse.dims(), dim = options_.dim;

    std::vector<uint32_t> labels(n * copies);
    std::vector<uint32_t> sizes(lists);
    source.for_each_chunk(1, part_of(run, 0.5, 0.65), [&](size_t first, const Vectors& rows) {
        constexpr size_t kPart = 256;
        parallel_for((rows.n + kPart - 1) / kPart, {run.threads, nullptr}, [&](size_t item) {
            const size_t from = item * kPart, count = std::min(kPart, rows.n - from);
            version.codec->check(rows.part(from, count), "source", first + from);
            std::vector<float> compared(count * dims);
            load_compared(rows.part(from, count), dims, options_.metric, compared.data());
            coarse.assign(compared.data(), count, own_.soar, labels.data() + (first + from) * copies);
        });
    });
    for (const uint32_t list : labels) ++sizes[list];

    // The file, all of whose arrays are of known size now.
    Description out;
    now.state = std::make_shared<State>(nullptr);
    now.state->next_id = static_cast<int64_t>(n);
    now.live.count = n;
    describe_rows(now, out);
    describe_options(out);
    const size_t group = codec_->group(), fine_bytes = codec_->fine_bytes();
    uint64_t groups = 0;
    for (const uint32_t size : sizes) groups += (size + group - 1) / group;
    std::vector<TensorPlan> plans;
    for (const TensorSource& tensor : out.tensors) plans.push_back({tensor.name, tensor.type, tensor.shape});
    plans.push_back({"list_sizes", TensorType::u32, {lists}});
    plans.push_back({"centroids", TensorType::f32, {lists, dims}});
    if (coarse.graph())
        plans.push_back({"list_graph", TensorType::u32, {CentroidGraph::rows(lists), CentroidGraph::kDegree}});
    plans.push_back({"lists", TensorType::u8, {groups, codec_->group_bytes()}});
    plans.push_back({"list_rows", TensorType::u32, {n * copies}});
    if (codes.residual) {
        plans.push_back({"corrections", TensorType::f32, {groups, group}});
        plans.push_back({"largest_corrections", TensorType::f32, {lists}});
    }
    if (fine_bytes > 0) plans.push_back({"fine", TensorType::u8, {n * copies, fine_bytes}});
    if (codes.places) plans.push_back({"places", TensorType::u32, {n, 2}});
    if (rerank_) {
        const CodeStore store(*rerank_, CodeStore::Form::rows);
        plans.push_back({"rerank", stored_type(*rerank_), shape_of(store, stored_type(*rerank_), n)});
    }
    ContainerBuilder file(path, plans, out.metadata);
    const auto write = [&](const std::string& name, uint64_t offset, const auto& values) {
        const auto bytes = std::as_bytes(std::span(values));
        file.write(name, offset, bytes.data(), bytes.size());
    };
    for (const TensorSource& tensor : out.tensors) {
        uint64_t offset = 0;
        for (const auto& piece : tensor.pieces) {
            file.write(tensor.name, offset, piece.data(), piece.size());
            offset += piece.size();
        }
    }
    write("list_sizes", 0, sizes);
    write("centroids", 0, coarse.values());
    if (coarse.graph()) write("list_graph", 0, coarse.graph()->edges());

    // Rows are encoded in their order, and their codes sorted by list.
    const size_t stride = codec_->row_bytes(), entry_bytes = stride + sizeof(float) + sizeof(uint32_t);
    const std::filesystem::path directory = path.has_parent_path() ? path.parent_path() : ".";
    SortedEntries entries(directory, entry_bytes, lists,
                          std::max<size_t>(source.chunk(), budget / kRunShare / (entry_bytes + 2 * sizeof(uint32_t))));
    source.for_each_chunk(1, part_of(run, 0.65, 0.9), [&](size_t first, const Vectors& rows) {
        std::vector<std::byte> coded(rows.n * copies * entry_bytes), finer(rerank_ ? rows.n * rerank_->row_bytes() : 0);
        constexpr size_t kPart = 256;
        parallel_for((rows.n + kPart - 1) / kPart, {run.threads, nullptr}, [&](size_t item) {
            const size_t from = item * kPart, count = std::min(kPart, rows.n - from);
            if (rerank_)
                encode_batch(*version.rerank, rows.part(from, count), first + from,
                             finer.data() + from * rerank_->row_bytes());
            std::vector<float> vector(dim);
            for (size_t i = from; i < from + count; ++i) {
                load_compared(rows.part(i, 1), dim, codes.residual ? options_.metric : Metric::ip, vector.data());
                for (size_t copy = 0; copy < copies; ++copy) {
                    IvfCodes::NewRows one;
                    try {
                        codes.encode(*version.codec, labels[(first + i) * copies + copy], vector.data(), 1, one);
                    } catch (const UnencodableVector& e) {
                        throw InvalidInput("source: row " + std::to_string(first + i) + " " + e.what());
                    }
                    std::byte* entry = coded.data() + (i * copies + copy) * entry_bytes;
                    const auto number = static_cast<uint32_t>(first + i);
                    std::copy(one.rows.begin(), one.rows.end(), entry);
                    if (codes.residual) std::memcpy(entry + stride, one.corrections.data(), sizeof(float));
                    std::memcpy(entry + stride + sizeof(float), &number, sizeof(number));
                }
            }
        });
        if (rerank_) write("rerank", first * rerank_->row_bytes(), finer);
        for (size_t i = 0; i < rows.n * copies; ++i) {
            entries.put(labels[first * copies + i], coded.data() + i * entry_bytes);
        }
    });
    entries.flush();

    // List after list.
    std::vector<IvfCodes::Place> places(codes.places ? n : 0, IvfCodes::Place{IvfCodes::kNowhere, 0});
    std::vector<float> largest(lists);
    std::vector<std::byte> coded;
    uint64_t first_group = 0, first_entry = 0;
    for (uint32_t list = 0; list < lists; ++list) {
        if (run.poll && !run.poll(0.9 + 0.1 * list / static_cast<double>(lists))) throw Interrupted{};
        if (sizes[list] == 0) continue;
        entries.read(list, coded);
        IvfCodes::NewRows rows;
        for (size_t i = 0; i < sizes[list]; ++i) {
            const std::byte* entry = coded.data() + i * entry_bytes;
            float correction;
            uint32_t number;
            std::memcpy(&correction, entry + stride, sizeof(correction));
            std::memcpy(&number, entry + stride + sizeof(correction), sizeof(number));
            rows.rows.insert(rows.rows.end(), entry, entry + stride);
            if (codes.residual) rows.corrections.push_back(correction);
            rows.numbers.push_back(number);
            if (codes.places && labels[number * copies] == list) {
                places[number] = {list, static_cast<uint32_t>(i)};
            }
        }
        const std::shared_ptr<const List> packed = codes.appended(List{}, rows);
        const size_t own = codes.groups(*packed);
        write("lists", first_group * codec_->group_bytes(), std::span(packed->codes, own * codec_->group_bytes()));
        write("list_rows", first_entry * sizeof(uint32_t), std::span(packed->rows, packed->size));
        if (codes.residual) {
            write("corrections", first_group * group * sizeof(float), std::span(packed->corrections, own * group));
            largest[list] = packed->largest;
        }
        if (fine_bytes > 0) write("fine", first_entry * fine_bytes, std::span(packed->fine, packed->size * fine_bytes));
        first_group += own;
        first_entry += packed->size;
    }
    if (codes.residual) write("largest_corrections", 0, largest);
    if (codes.places) write("places", 0, places);
    file.commit(checkpoint);
}

}  // namespace nearfield
