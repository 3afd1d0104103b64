// Flat's part of files.
#include <numeric>

#include "search/flat_codes.hpp"
#include "search/index_file.hpp"

namespace nearfield {

using kernels::kGroup;

namespace {

// Rows that lie in groups are taken out of these to be looked at.
void check_groups(const Container& file, const Codec& codec, const CodeStore::View& view) {
    constexpr size_t kRows = 256;
    std::vector<uint32_t> list(kRows);
    std::vector<std::byte> rows(kRows * codec.row_bytes());
    for (size_t first = 0; first < view.count; first += kRows) {
        const size_t n = std::min(kRows, view.count - first);
        std::iota(list.begin(), list.end(), static_cast<uint32_t>(first));
        view.copy(list.data(), n, rows.data());
        if (codec.valid({rows.data(), codec.row_bytes()}, n)) continue;
        throw FileFormatError(file.name() + ": tensor \"vectors\" holds rows that codec \"" +
                              std::string(codec.name()) + "\" does not make");
    }
}

}  // namespace

void Flat::describe(const Snapshot& now, Description& out) const {
    const FlatCodes& codes = codes_of(now);
    const CodeStore& rows = codes.store->rows;
    out.metadata["screen"] = screen_ ? "true" : "false";
    add_rows(out.tensors, "vectors", *codec_, rows, codes.tail, codes.count);
    if (rows.fine_bytes() > 0) {
        out.tensors.push_back(
            {"fine", TensorType::u8, {codes.count, rows.fine_bytes()}, rows.fine_pieces(codes.count)});
    }
    if (codes.screened == 0) return;
    const size_t groups = codes.screened / kGroup;
    const Screen& screen = *codes.store->screen;
    out.tensors.push_back(
        {"screen", TensorType::u8, {groups, screen.groups.row_bytes()}, screen.groups.pieces(groups)});
    out.tensors.push_back({"screen_center", TensorType::f32, {options_.dim}, {bytes_of(screen.codec.center())}});
}

std::unique_ptr<Flat> Flat::made_for(const Container& file, IndexOptions options) {
    const std::string& screen = file.metadata("screen");
    if (screen != "true" && screen != "false") throw InvalidInput("metadata \"screen\" is not true or false");
    return std::make_unique<Flat>(FlatOptions{std::move(options), screen == "true"});
}

std::shared_ptr<const Index::Codes> Flat::load_codes(const std::shared_ptr<const Container>& file,
                                                     const Snapshot& loaded) const {
    auto codes = std::make_shared<FlatCodes>();
    const size_t count = codes->count = loaded.live.count, dim = options_.dim;
    const CodeStore& empty = codes_of(loaded).store->rows;
    const std::byte* rows = stored_rows(*file, "vectors", *codec_, empty, count);
    const std::byte* fine = nullptr;
    if (const size_t bytes = empty.fine_bytes(); bytes > 0) {
        fine = expect(*file, "fine", TensorType::u8, {count, bytes}).data;
    }
    codes->store.reset(
        new FlatCodes::Store{CodeStore(*codec_, CodeStore::Form::blocks, rows, fine, count, file), nullptr});
    const size_t group = empty.group();
    if (count % group != 0) {  // never written to
        codes->tail = {file, const_cast<std::byte*>(rows) + count / group * empty.unit_bytes()};
    }
    if (group > 1 && file->tensor("vectors").read) check_groups(*file, *codec_, codes->view());
    if (screen_ && count >= kScreenFrom) {
        const Tensor& center = expect(*file, "screen_center", TensorType::f32, {dim});
        const auto* values = reinterpret_cast<const float*>(center.data);
        ScreenCodec codec(dim, options_.metric, std::vector<float>(values, values + dim));
        const size_t groups = count / kGroup, bytes = codec.group_bytes();
        const Tensor& image = expect(*file, "screen", TensorType::u8, {groups, bytes});
        codes->store->screen.reset(new Screen{std::move(codec), RowStore(bytes, image.data, groups, file)});
        codes->screened = groups * kGroup;
    }
    return codes;
}

}  // namespace nearfield
