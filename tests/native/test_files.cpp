// The scratch file: what is appended is read back, from several threads too; it has no name and leaves nothing; its
// errors name the directory, and after a failed append the next one goes on.
#include <algorithm>
#include <cerrno>
#include <random>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.hpp"
#include "storage/fault.hpp"
#include "storage/file.hpp"
#include "temporary_directory.hpp"

namespace fs = std::filesystem;
namespace storage = nearfield::storage;
using storage::ScratchFile;

namespace {

using Bytes = std::vector<std::byte>;

Bytes random_bytes(size_t n, unsigned seed) {
    std::mt19937 random(seed);
    Bytes bytes(n);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    return bytes;
}

bool holds(const ScratchFile& file, const Bytes& all, uint64_t offset, size_t bytes) {
    Bytes read(bytes);
    file.read(offset, read.data(), bytes);
    return std::equal(read.begin(), read.end(), all.begin() + static_cast<ptrdiff_t>(offset));
}

void test_round_trip() {
    const TemporaryDirectory directory;
    const Bytes all = random_bytes(9'000'000, 1);
    std::mt19937 random(2);
    ScratchFile file(directory.path);
#ifndef _WIN32
    CHECK(directory.files() == 0);
#endif
    CHECK(file.size() == 0 && holds(file, all, 0, 0));
    // Pieces around the size of the buffer, and others.
    const size_t buffer = size_t{1} << 20;
    for (const size_t piece : {size_t{0}, size_t{1}, size_t{1000}, buffer - 1001, size_t{1}, buffer, buffer + 1,
                               2 * buffer + 17, size_t{0}, buffer - 1, size_t{5}, size_t{300'000}}) {
        file.append(all.data() + file.size(), piece);
        CHECK(holds(file, all, 0, file.size()));
        CHECK(holds(file, all, file.size(), 0));
        for (int i = 0; i < 20; ++i) {
            const uint64_t offset = random() % (file.size() + 1);
            CHECK(holds(file, all, offset, random() % (file.size() - offset + 1)));
        }
    }
    std::vector<std::thread> readers;
    for (unsigned seed = 0; seed < 4; ++seed) {
        readers.emplace_back([&file, &all, seed] {
            std::mt19937 next(seed);
            for (int i = 0; i < 200; ++i) {
                const uint64_t offset = next() % file.size();
                CHECK(holds(file, all, offset, std::min<size_t>(file.size() - offset, next() % 50'000)));
            }
        });
    }
    for (std::thread& reader : readers) reader.join();

    CHECK_THROWS(std::invalid_argument, "of a scratch file of", holds(file, all, file.size(), 1));
    CHECK_THROWS(std::invalid_argument, "of a scratch file of", holds(file, all, file.size() + 1, 0));
    CHECK_THROWS(std::invalid_argument, "of a scratch file of", holds(file, all, 1, file.size()));
}

// The error code of an error that names the directory, 0 if there was none.
template <class Call>
int error_of(Call call, const fs::path& directory) {
    try {
        call();
    } catch (const fs::filesystem_error& error) {
        CHECK(error.path1() == directory);
        return error.code().value();
    }
    return 0;
}

void test_errors() {
    const TemporaryDirectory directory;
    const fs::path missing = directory.path / "missing";
    CHECK(error_of([&] { const ScratchFile file(missing); }, missing) == ENOENT);

    const Bytes all = random_bytes(5'000'000, 3);
    const size_t piece = 700'000;
    storage::set_fault(storage::Fault::fail);
    {
        ScratchFile file(directory.path);
        while (file.size() + piece <= all.size()) file.append(all.data() + file.size(), piece);
        file.append(all.data() + file.size(), all.size() - file.size());
    }
    const uint64_t calls = storage::fault_calls();
    CHECK(calls > 3);
    storage::set_fault(storage::Fault::fail, 1, EACCES);
    CHECK(error_of([&] { const ScratchFile file(directory.path); }, directory.path) == EACCES);
    for (uint64_t call = 2; call <= calls; ++call) {
        storage::set_fault(storage::Fault::fail, call, ENOSPC);
        ScratchFile file(directory.path);
        int failed = 0;
        while (file.size() < all.size()) {
            const uint64_t before = file.size();
            const size_t next = std::min<size_t>(piece, all.size() - before);
            if (const int error = error_of([&] { file.append(all.data() + before, next); }, directory.path)) {
                CHECK(error == ENOSPC && file.size() == before);
                ++failed;
            }
        }
        CHECK(failed == 1 && holds(file, all, 0, all.size()));
    }
    storage::set_fault(storage::Fault::off);
    CHECK(directory.files() == 0);
}

}  // namespace

int main() {
    test_round_trip();
    test_errors();
    return 0;
}
