#include "storage/file.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string_view>
#include <system_error>
#include <utility>

#include "storage/fault.hpp"
#include "storage/json.hpp"

#ifdef _WIN32
#ifndef NOMINMAX
#define NOMINMAX
#endif
#define WIN32_LEAN_AND_MEAN
#include <io.h>
#include <process.h>
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace nearfield::storage {
namespace {

namespace fs = std::filesystem;

static_assert(sizeof(size_t) == 8, "a file may be longer than a 32-bit address space");

// The longest single read or write that every system takes.
constexpr size_t kLongestTransfer = size_t{1} << 30;

[[noreturn]] void fail(const char* action, const fs::path& path, std::error_code error) {
    throw fs::filesystem_error(action, path, error);
}
[[noreturn]] void fail(const char* action, const fs::path& path, int error) {
    fail(action, path, std::error_code(error, std::generic_category()));
}

// The calls that differ between systems, each returning -1 and errno on failure.
#ifdef _WIN32

int open_to_read(const fs::path& path) { return _wopen(path.c_str(), _O_RDONLY | _O_BINARY | _O_NOINHERIT); }

int open_new(const fs::path& path) {
    return _wopen(path.c_str(), _O_WRONLY | _O_CREAT | _O_EXCL | _O_BINARY | _O_NOINHERIT, _S_IREAD | _S_IWRITE);
}

int read_at(int fd, uint64_t offset, std::byte* to, size_t bytes) {
    if (_lseeki64(fd, static_cast<int64_t>(offset), SEEK_SET) < 0) return -1;
    return _read(fd, to, static_cast<unsigned>(bytes));
}

int write_next(int fd, const std::byte* data, size_t bytes) { return _write(fd, data, static_cast<unsigned>(bytes)); }
int seek_start(int fd) { return _lseeki64(fd, 0, SEEK_SET) < 0 ? -1 : 0; }
int flush(int fd) { return _commit(fd); }
int close_file(int fd) { return _close(fd); }
int process_id() { return _getpid(); }

using FileStatus = struct _stat64;
int status_of(int fd, FileStatus& status) { return _fstat64(fd, &status); }
bool is_regular(const FileStatus& status) { return (status.st_mode & _S_IFMT) == _S_IFREG; }
bool is_directory(const FileStatus& status) { return (status.st_mode & _S_IFMT) == _S_IFDIR; }

#else

// A pipe must not block the opening; a regular file takes no notice.
int open_to_read(const fs::path& path) { return open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); }
int open_directory(const fs::path& path) { return open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY); }
int open_new(const fs::path& path) { return open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); }

ssize_t read_at(int fd, uint64_t offset, std::byte* to, size_t bytes) {
    return pread(fd, to, bytes, static_cast<off_t>(offset));
}

ssize_t write_next(int fd, const std::byte* data, size_t bytes) { return ::write(fd, data, bytes); }
int seek_start(int fd) { return lseek(fd, 0, SEEK_SET) < 0 ? -1 : 0; }

int flush(int fd) {
#ifdef F_FULLFSYNC
    // On macOS fsync leaves the data in the drive's cache; not every file system offers more.
    if (fcntl(fd, F_FULLFSYNC) == 0) return 0;
#endif
    return fsync(fd);
}

int close_file(int fd) { return ::close(fd); }
int process_id() { return getpid(); }

using FileStatus = struct stat;
int status_of(int fd, FileStatus& status) { return fstat(fd, &status); }
bool is_regular(const FileStatus& status) { return S_ISREG(status.st_mode); }
bool is_directory(const FileStatus& status) { return S_ISDIR(status.st_mode); }

#endif

// Makes a system call again as long as signals interrupt it.
template <class Call>
auto uninterrupted(Call call) {
    auto result = call();
    while (result == -1 && errno == EINTR) result = call();
    return result;
}

// The same for a call that changes files, where tests can make it fail.
template <class Call>
auto changing(Call call) {
    if (const int error = fault_at_call()) {
        errno = error;
        return decltype(call()){-1};
    }
    return uninterrupted(call);
}

// Where writing to `path` arrives when symbolic links are followed; it need not exist.
fs::path follow_links(const fs::path& path) {
    constexpr int most_links = 40;
    fs::path target = path;
    std::error_code ignored;  // what cannot be looked at cannot be created either, and says so then
    for (int links = 0; fs::is_symlink(fs::symlink_status(target, ignored)); ++links) {
        if (links == most_links) fail("cannot save", path, ELOOP);
        std::error_code error;
        const fs::path link = fs::read_symlink(target, error);
        if (error) fail("cannot save", path, error);
        target = target.parent_path() / link;
    }
    return target;
}

}  // namespace

std::string display_name(const fs::path& path) {
    const auto text = path.u8string();
    return printable({reinterpret_cast<const char*>(text.data()), text.size()}, std::string_view::npos);
}

void Descriptor::set(int fd) {
    close();
    fd_ = fd;
}

int Descriptor::close() { return fd_ < 0 ? 0 : close_file(std::exchange(fd_, -1)); }

InputFile::InputFile(const fs::path& path) : path_(path), file_(uninterrupted([&] { return open_to_read(path); })) {
    FileStatus status;
    if (file_.get() < 0 || status_of(file_.get(), status) != 0) fail("cannot open", path, errno);
    if (is_directory(status)) fail("cannot open", path, EISDIR);
    if (!is_regular(status)) fail_format(display_name(path), "file", "it is not a regular file");
    size_ = static_cast<uint64_t>(status.st_size);
}

void InputFile::read(uint64_t offset, std::byte* to, size_t bytes) const {
    while (bytes > 0) {
        const auto done =
            uninterrupted([&] { return read_at(file_.get(), offset, to, std::min(bytes, kLongestTransfer)); });
        if (done < 0) fail("cannot read", path_, errno);
        if (done == 0) fail_format(display_name(path_), "file", "it became shorter while it was read");
        offset += static_cast<uint64_t>(done);
        to += done;
        bytes -= static_cast<size_t>(done);
    }
}

std::shared_ptr<const std::byte> InputFile::map() const {
#ifdef _WIN32
    const auto fail_windows = [this] {
        fail("cannot map", path_, std::error_code(static_cast<int>(GetLastError()), std::system_category()));
    };
    const HANDLE file = reinterpret_cast<HANDLE>(_get_osfhandle(file_.get()));
    const HANDLE mapping = CreateFileMappingW(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
    if (mapping == nullptr) fail_windows();
    const void* view = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
    CloseHandle(mapping);
    if (view == nullptr) fail_windows();
    return {static_cast<const std::byte*>(view), [](const std::byte* at) { UnmapViewOfFile(at); }};
#else
    void* const view = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_.get(), 0);
    if (view == MAP_FAILED) fail("cannot map", path_, errno);
    return {static_cast<const std::byte*>(view), [view, size = size_](const std::byte*) { munmap(view, size); }};
#endif
}

ReplacementFile::ReplacementFile(const fs::path& target) : named_(target), target_(follow_links(target)) {
    std::error_code ignored;  // as in follow_links
    const fs::file_status status = fs::status(target_, ignored);
    if (fs::is_directory(status)) fail("cannot save", named_, EISDIR);
    if (!target_.has_filename()) fail("cannot save", named_, ENOENT);
    // A device or a pipe must not be replaced by a file.
    if (fs::exists(status) && !fs::is_regular_file(status)) fail("cannot save: not a regular file", named_, EINVAL);
    create();
}

ReplacementFile::~ReplacementFile() {
    if (temporary_.empty()) return;
    file_.close();
    std::error_code ignored;  // nothing more can be done
    fs::remove(temporary_, ignored);
}

void ReplacementFile::create() {
    static std::atomic<unsigned> counter{0};
    const fs::path directory = target_.has_parent_path() ? target_.parent_path() : fs::path(".");
#ifndef _WIN32
    directory_.set(changing([&] { return open_directory(directory); }));
    if (directory_.get() < 0) fail("cannot save", named_, errno);
#endif
    while (true) {
        const std::string name =
            ".nearfield-" + std::to_string(process_id()) + "-" + std::to_string(counter++) + ".tmp";
        fs::path path = directory / name;
        file_.set(changing([&] { return open_new(path); }));
        if (file_.get() >= 0) {
            temporary_ = std::move(path);
            return;
        }
        if (errno != EEXIST) fail("cannot save", named_, errno);
    }
}

void ReplacementFile::write(const std::byte* data, size_t bytes) {
    while (bytes > 0) {
        const auto done = changing([&] { return write_next(file_.get(), data, std::min(bytes, kLongestTransfer)); });
        if (done < 0) fail("cannot save", named_, errno);
        data += done;
        bytes -= static_cast<size_t>(done);
    }
}

void ReplacementFile::rewind() {
    if (seek_start(file_.get()) != 0) fail("cannot save", named_, errno);
}

void ReplacementFile::commit() {
    if (changing([&] { return flush(file_.get()); }) != 0) fail("cannot save", named_, errno);
    if (file_.close() != 0 && errno != EINTR) fail("cannot save", named_, errno);

    std::error_code error(fault_at_call(), std::generic_category());
    if (!error) fs::rename(temporary_, target_, error);
    if (error) fail("cannot save", named_, error);
    temporary_.clear();
#ifndef _WIN32
    // Some file systems cannot sync a directory and need not.
    if (changing([&] { return fsync(directory_.get()); }) != 0 && errno != EINVAL) fail("cannot save", named_, errno);
#endif
}

}  // namespace nearfield::storage
