// A C++ program that owns an index through a smart pointer: float16 rows found again after a save and a mapped load.
#include <nearfield.h>

#include <cstdint>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Close {
    void operator()(nearfield_index* index) const { nearfield_close(index); }
};
using Index = std::unique_ptr<nearfield_index, Close>;

void check(nearfield_status status) {
    if (status != NEARFIELD_OK) throw std::runtime_error(nearfield_last_error());
}

Index create(std::size_t dim, const char* metric, const char* codec) {
    nearfield_index_options options{};
    options.struct_size = sizeof options;
    options.dim = dim;
    options.metric = metric;
    options.codec = codec;
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

}  // namespace

int main() try {
    constexpr std::size_t n = 1000, dim = 40;
    std::vector<float> rows(n * dim);
    std::uint32_t state = 1;
    for (float& x : rows) {
        state = state * 1664525 + 1013904223;
        x = static_cast<float>(state >> 8) / (1 << 24) - 0.5f;
    }
    const nearfield_vectors vectors{rows.data(), n, dim, 0, NEARFIELD_F32};

    const std::string path = "consumer_cpp.nearfield";
    {
        const Index index = create(dim, "cosine", "f16");
        check(nearfield_add(index.get(), &vectors, nullptr, nullptr, nullptr));
        check(nearfield_save(index.get(), path.c_str()));
    }
    const Index index = open_mapped(path);
    std::vector<std::int64_t> ids(n);
    std::vector<float> scores(n);
    check(nearfield_search(index.get(), &vectors, 1, nullptr, ids.data(), scores.data(), nullptr));
    for (std::size_t i = 0; i < n; ++i) {
        if (ids[i] != static_cast<std::int64_t>(i) || !(scores[i] > 0.999f)) {
            throw std::runtime_error("row " + std::to_string(i) + " finds " + std::to_string(ids[i]));
        }
    }
    std::cout << "nearfield " << nearfield_version() << ": ok\n";
    return 0;
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
}
