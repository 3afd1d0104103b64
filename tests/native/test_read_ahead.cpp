// Advice for mapped files: it changes no byte and takes any argument, and where the system's cache can be looked at,
// what is read from the disk is what was asked for.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "check.hpp"
#include "storage/container.hpp"
#include "storage/read_ahead.hpp"
#include "temporary_directory.hpp"

#ifdef __linux__
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace fs = std::filesystem;
using nearfield::Container;
using nearfield::Tensor;
using nearfield::TensorType;

namespace {

using Bytes = std::vector<std::byte>;

constexpr size_t kListBytes = size_t{32} << 20;

Bytes random_bytes(size_t n) {
    std::mt19937_64 random(1);
    Bytes bytes(n);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    return bytes;
}

void write(const fs::path& path, const Bytes& lists) {
    const std::span<const std::byte> all(lists);
    nearfield::write_container(path,
                               {{"lists", TensorType::u8, {all.size()}, {all}},
                                {"small", TensorType::u8, {1001}, {all.first(1001)}},
                                {"smaller", TensorType::u8, {1}, {all.first(1)}},
                                {"empty", TensorType::f32, {0}, {}}},
                               {});
}

void test_any_argument(const fs::path& path, const Bytes& lists) {
    const Bytes elsewhere(10'000);
    const auto advised = [&](const Container& container) {
        const Tensor& tensor = container.tensor("lists");
        for (int round = 0; round < 2; ++round) {
            for (const char* name : {"lists", "small", "empty", "absent"}) container.advise_random(name);
            container.advise_needed(tensor.data, tensor.bytes);
            container.advise_needed(tensor.data, 0);
            container.advise_needed(tensor.data + 4095, 2);
            container.advise_needed(tensor.data + tensor.bytes, 1 << 20);
            container.advise_needed(tensor.data, ~size_t{0});
            container.advise_needed(elsewhere.data(), elsewhere.size());
            container.advise_needed(nullptr, 10);
        }
        CHECK(std::equal(lists.begin(), lists.end(), tensor.data, tensor.data + tensor.bytes));
    };
    for (const bool map : {false, true}) advised(*Container::open(path, map, false));
    advised(*Container::open(path, true, false, "lists"));
    const auto owner = std::make_shared<Bytes>();
    nearfield::write_container([&](const std::byte* data, size_t n) { owner->insert(owner->end(), data, data + n); },
                               {{"lists", TensorType::u8, {lists.size()}, {lists}}}, {});
    advised(*Container::from_bytes(*owner, owner));

    const auto mapped = Container::open(path, true, false);
    const Tensor& tensor = mapped->tensor("lists");
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 4; ++seed) {
        threads.emplace_back([&, seed] {
            std::mt19937 random(seed);
            for (int i = 0; i < 1000; ++i) {
                const size_t offset = random() % tensor.bytes, bytes = random() % 100'000;
                mapped->advise_needed(tensor.data + offset, std::min<size_t>(bytes, tensor.bytes - offset));
                CHECK(tensor.data[offset] == lists[offset]);
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
}

#ifdef __linux__

// A file of which nothing is in memory, and what comes into memory.
class ColdFile {
  public:
    explicit ColdFile(const fs::path& path) : file_(open(path.c_str(), O_RDONLY)), bytes_(fs::file_size(path)) {
        CHECK(file_ >= 0 && posix_fadvise(file_, 0, 0, POSIX_FADV_DONTNEED) == 0);
        view_ = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, file_, 0);
        CHECK(view_ != MAP_FAILED);
    }
    ColdFile(const ColdFile&) = delete;
    ColdFile& operator=(const ColdFile&) = delete;
    ~ColdFile() {
        munmap(view_, bytes_);
        close(file_);
    }

    size_t pages_in_memory() const {
        std::vector<unsigned char> state((bytes_ + page() - 1) / page());
        CHECK(mincore(view_, bytes_, state.data()) == 0);
        return static_cast<size_t>(std::count_if(state.begin(), state.end(), [](unsigned char c) { return c & 1; }));
    }
    static size_t page() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

  private:
    int file_;
    size_t bytes_;
    void* view_;
};

void touch(const std::byte* at) { static_cast<void>(*static_cast<const volatile std::byte*>(at)); }

// How much the system reads of its own accord, as a file is opened and as a page is touched, is the system's affair:
// what is checked is what the advice makes of it. Whatever else touches the file only adds pages, so the fewest of
// several attempts count.
size_t fewest_of_attempts(const std::function<size_t()>& pages) {
    size_t fewest = pages();
    for (int attempt = 1; attempt < 5; ++attempt) fewest = std::min(fewest, pages());
    return fewest;
}

void test_what_is_read(const fs::path& path) {
    constexpr size_t touches = 16, step = kListBytes / touches, few = 64;
    const size_t page = ColdFile::page(), pages = kListBytes / page;
    const auto touch_some = [&](const Container& container) {
        for (size_t i = 0; i < touches; ++i) touch(container.tensor("lists").data + i * step);
    };
    size_t opened = 0, plain = 0;
    {
        const ColdFile file(path);
        const size_t kept = file.pages_in_memory();
        const auto container = Container::open(path, true, false);
        opened = file.pages_in_memory();
        touch_some(*container);
        plain = file.pages_in_memory();
        std::printf("pages in memory of %zu: %zu at first, %zu once opened, %zu once %zu are touched\n", pages, kept,
                    opened, plain, touches);
        if (kept > few || opened > pages / 8) {
            std::puts("the system keeps or reads so much of a file that advice about it is not tested");
            return;
        }
    }
    const size_t advised = fewest_of_attempts([&] {
        const ColdFile file(path);
        const auto container = Container::open(path, true, false);
        container->advise_random("lists");
        touch_some(*container);
        return file.pages_in_memory();
    });
    std::printf("and %zu with advice\n", advised);
    CHECK(advised <= std::min(plain, opened + few + touches));

    // Longer than what the system reads for one call.
    const size_t needed = size_t{3} << 20;
    const size_t found = fewest_of_attempts([&] {
        const ColdFile file(path);
        const auto container = Container::open(path, true, false);
        const Tensor& tensor = container->tensor("lists");
        container->advise_random("lists");
        container->advise_needed(tensor.data + page, needed);
        for (int wait = 0; file.pages_in_memory() < needed / page && wait < 1000; ++wait) {
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
        return file.pages_in_memory();
    });
    std::printf("%zu pages needed: %zu in memory\n", needed / page, found);
    CHECK(found >= needed / page && found <= needed / page + opened + few);
}

#endif

}  // namespace

int main() {
    const TemporaryDirectory directory;
    const fs::path path = directory.path / "file";
    const Bytes lists = random_bytes(kListBytes);
    write(path, lists);
#ifdef __linux__
    test_what_is_read(path);
#endif
    test_any_argument(path, lists);
    return 0;
}
