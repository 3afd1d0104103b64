#include "search/flat.hpp"

#include <algorithm>

#include "codecs/bits.hpp"
#include "codecs/dense.hpp"
#include "search/flat_codes.hpp"

namespace nearfield {

using kernels::kGroup;

Flat::Flat(const FlatOptions& options) : Flat(options, make_codec(options.codec, options.dim, options.metric)) {}

Flat::Flat(const FlatOptions& options, std::shared_ptr<const Codec> codec) : Index(options, std::move(codec)) {
    // A screen is an image of floats; other codes are no larger than it would be.
    const std::string& name = options_.codec.name;
    const bool floats = name == "f32" || name == "f16" || name == "bf16";
    screen_ = options.screen && floats && options_.codec.parameters.empty();
    auto codes = std::make_shared<FlatCodes>();
    codes->store.reset(new FlatCodes::Store{CodeStore(*codec_, CodeStore::Form::blocks), nullptr});
    publish(without_rows(std::move(codes)));
}

std::unique_ptr<Flat> Flat::over(const Vectors& vectors, Metric metric) {
    FlatOptions options;
    options.dim = vectors.dim;
    options.metric = metric;
    options.screen = false;
    std::unique_ptr<Codec> codec;
    if (is_bit_metric(metric)) {
        codec = std::make_unique<BitsCodec>(vectors.dim, metric);
    } else {
        codec = std::make_unique<DenseCodec>(vectors.type, vectors.dim, metric);
    }
    if (vectors.type <= kernels::kBF16) {
        std::vector<float> batch(std::min(vectors.n, kBatchRows) * vectors.dim);
        for (size_t first = 0; first < vectors.n; first += kBatchRows) {
            const size_t n = std::min(kBatchRows, vectors.n - first);
            vectors.to_f32(first, n, batch.data());
            check_finite(batch.data(), n, vectors.dim, "vectors", first);
        }
    }
    std::unique_ptr<Flat> index(new Flat(options, std::move(codec)));
    Snapshot all = index->snapshot();
    auto codes = std::make_shared<FlatCodes>();
    codes->store.reset(new FlatCodes::Store{
        CodeStore(*index->codec_, CodeStore::Form::blocks, vectors.data, nullptr, vectors.n, nullptr), nullptr});
    codes->count = vectors.n;
    all.codes = std::move(codes);
    all.live.count = vectors.n;
    index->publish(std::move(all));
    return index;
}

const Flat::FlatCodes& Flat::codes_of(const Snapshot& now) { return static_cast<const FlatCodes&>(*now.codes); }

size_t Flat::FlatCodes::nbytes() const {
    size_t bytes = store->rows.nbytes(count);
    if (screened > 0) {
        const Screen& screen = *store->screen;
        bytes += screened / kGroup * screen.groups.row_bytes() + screen.codec.center().size() * sizeof(float);
    }
    return bytes;
}

void Flat::FlatCodes::decode(const Codec& codec, const uint32_t* list, size_t n, float* out) const {
    std::vector<std::byte> rows(n * store->rows.row_bytes());
    copy(list, n, rows.data());
    codec.decode({rows.data(), store->rows.row_bytes()}, nullptr, n, out);
}

// Covers all whole groups of the codes by the screen, and returns how many rows these are.
size_t Flat::extend_screen(FlatCodes& codes, const Run& run) const {
    const size_t dim = options_.dim;
    FlatCodes::Store& store = *codes.store;
    const auto decode = [&](size_t first, size_t n, float* out) {
        for (size_t i = 0; i < n; ++i) {
            codec_->decode({store.rows.row(first + i), store.rows.row_bytes()}, nullptr, 1, out + i * dim);
        }
    };
    std::unique_ptr<Screen> made;  // kept only once it is complete
    if (codes.screened == 0) {
        std::vector<float> sample(kScreenFrom * dim);
        decode(0, kScreenFrom, sample.data());
        ScreenCodec codec(dim, options_.metric,
                          ScreenCodec::center_of(sample.data(), kScreenFrom, dim, options_.metric));
        const size_t group_bytes = codec.group_bytes();
        made.reset(new Screen{std::move(codec), RowStore(group_bytes)});
    }
    Screen& screen = made ? *made : *store.screen;
    const size_t first = codes.screened / kGroup, last = codes.count / kGroup;
    screen.groups.reserve(last, first);
    constexpr size_t kGroupsPerItem = 32;
    parallel_for((last - first + kGroupsPerItem - 1) / kGroupsPerItem, run, [&](size_t item) {
        std::vector<float> vectors(kGroup * dim);
        const size_t begin = first + item * kGroupsPerItem, end = std::min(last, begin + kGroupsPerItem);
        for (size_t group = begin; group < end; ++group) {
            decode(group * kGroup, kGroup, vectors.data());
            screen.codec.encode_group(vectors.data(), screen.groups.writable(group));
        }
    });
    if (made) store.screen = std::move(made);
    return last * kGroup;
}

std::shared_ptr<const Index::Codes> Flat::append_codes(const Snapshot& now, const Vectors& vectors, size_t version,
                                                       const Run& run) const {
    const FlatCodes& old = codes_of(now);
    auto codes = std::make_shared<FlatCodes>(old);
    codes->count = old.count + vectors.n;
    codes->tail = old.store->rows.reserve(codes->count, old.count);
    const bool screens = screen_ && codes->count >= kScreenFrom;
    const double encoded = screens ? 0.5 : 1.0;  // share of the work
    const auto put = [&](size_t row, size_t n, const std::byte* rows) {
        codes->store->rows.put(row, n, rows, old.view(), codes->tail.get());
    };
    encode(*now.versions->all[version].codec, vectors, old.count, put, part_of(run, 0, encoded));
    if (screens) codes->screened = extend_screen(*codes, part_of(run, encoded, 1));
    return codes;
}

std::shared_ptr<const Index::Codes> Flat::compacted_codes(const Snapshot& old,
                                                          const std::vector<uint32_t>& rows) const {
    auto codes = std::make_shared<FlatCodes>();
    codes->store.reset(new FlatCodes::Store{CodeStore(*codec_, CodeStore::Form::blocks), nullptr});
    codes->count = rows.size();
    codes->tail = codes->store->rows.reserve(rows.size(), 0);
    codes_of(old).view().copy_to(rows, codes->store->rows, codes->tail.get());
    if (screen_ && rows.size() >= kScreenFrom) codes->screened = extend_screen(*codes, Run{});
    return codes;
}

}  // namespace nearfield
