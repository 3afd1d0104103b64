#include "storage/file.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <stdexcept>
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

constexpr size_t kScratchBuffer = size_t{1} << 20;
constexpr char kScratch[] = "cannot use a temporary file in";

[[noreturn]] void fail(const char* action, const fs::path& path, std::error_code error) {
    throw fs::filesystem_error(action, path, error);
}
[[noreturn]] void fail(const char* action, const fs::path& path, int error) {
    fail(action, path, std::error_code(error, std::generic_category()));
}

// The calls that differ between systems, each returning -1 and errno on failure.
#ifdef _WIN32

int open_to_read(const fs::path& path) { return _wopen(path.c_str(), _O_RDONLY | _O_BINARY | _O_NOINHERIT); }

int open_new(const fs::path& path, int flags = 0) {
    return _wopen(path.c_str(), _O_RDWR | _O_CREAT | _O_EXCL | _O_BINARY | _O_NOINHERIT | flags, _S_IREAD | _S_IWRITE);
}
int open_unnamed(const fs::path& path) { return open_new(path, _O_TEMPORARY | _O_SHORT_LIVED); }

// Transfers at an offset of its own, whatever other threads do with the file: the C library has only one position.
template <class Call>
int transfer_at(int fd, uint64_t offset, size_t bytes, Call call) {
    OVERLAPPED at{};
    at.Offset = static_cast<DWORD>(offset);
    at.OffsetHigh = static_cast<DWORD>(offset >> 32);
    DWORD done = 0;
    const HANDLE file = reinterpret_cast<HANDLE>(_get_osfhandle(fd));
    if (call(file, static_cast<DWORD>(bytes), &done, &at)) return static_cast<int>(done);
    const DWORD code = GetLastError();
    if (code == ERROR_HANDLE_EOF) return 0;
    const auto error = std::error_code(static_cast<int>(code), std::system_category()).default_error_condition();
    errno = error.category() == std::generic_category() ? error.value() : EIO;
    return -1;
}

int read_at(int fd, uint64_t offset, std::byte* to, size_t bytes) {
    return transfer_at(fd, offset, bytes, [to](HANDLE file, DWORD n, DWORD* done, OVERLAPPED* at) {
        return ReadFile(file, to, n, done, at);
    });
}

int write_at(int fd, uint64_t offset, const std::byte* data, size_t bytes) {
    return transfer_at(fd, offset, bytes, [data](HANDLE file, DWORD n, DWORD* done, OVERLAPPED* at) {
        return WriteFile(file, data, n, done, at);
    });
}

int set_size(int fd, uint64_t bytes) { return _chsize_s(fd, static_cast<int64_t>(bytes)) == 0 ? 0 : -1; }
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
int open_new(const fs::path& path) { return open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666); }

int open_unnamed(const fs::path& path) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0) unlink(path.c_str());
    return fd;
}

ssize_t read_at(int fd, uint64_t offset, std::byte* to, size_t bytes) {
    return pread(fd, to, bytes, static_cast<off_t>(offset));
}

ssize_t write_at(int fd, uint64_t offset, const std::byte* data, size_t bytes) {
    return pwrite(fd, data, bytes, static_cast<off_t>(offset));
}

int set_size(int fd, uint64_t bytes) {
#ifdef __linux__
    // A disk that is too small says so now, and the parts of the file lie together in whatever order they are written.
    if (fallocate(fd, 0, 0, static_cast<off_t>(bytes)) == 0) return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS) return -1;
#endif
    return ftruncate(fd, static_cast<off_t>(bytes));
}

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

// Reads a range, and returns how much of it the file holds.
size_t read_range(const Descriptor& file, uint64_t offset, std::byte* to, size_t bytes, const char* action,
                  const fs::path& path) {
    size_t filled = 0;
    while (filled < bytes) {
        const auto done = uninterrupted([&] {
            return read_at(file.get(), offset + filled, to + filled, std::min(bytes - filled, kLongestTransfer));
        });
        if (done < 0) fail(action, path, errno);
        if (done == 0) break;
        filled += static_cast<size_t>(done);
    }
    return filled;
}

void write_range(const Descriptor& file, uint64_t offset, const std::byte* data, size_t bytes, const char* action,
                 const fs::path& path) {
    while (bytes > 0) {
        const auto done =
            changing([&] { return write_at(file.get(), offset, data, std::min(bytes, kLongestTransfer)); });
        if (done < 0) fail(action, path, errno);
        offset += static_cast<uint64_t>(done);
        data += done;
        bytes -= static_cast<size_t>(done);
    }
}

// Creates a file of a name that is free with one of the calls above; returns its path, or "" and errno.
template <class Open>
fs::path create_temporary(const fs::path& directory, Descriptor& file, Open open_file) {
    static std::atomic<unsigned> counter{0};
    while (true) {
        fs::path path =
            directory / (".nearfield-" + std::to_string(process_id()) + "-" + std::to_string(counter++) + ".tmp");
        file.set(changing([&] { return open_file(path); }));
        if (file.get() >= 0) return path;
        if (errno != EEXIST) return {};
    }
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
    if (read_range(file_, offset, to, bytes, "cannot read", path_) < bytes) {
        fail_format(display_name(path_), "file", "it became shorter while it was read");
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
    const fs::path directory = target_.has_parent_path() ? target_.parent_path() : fs::path(".");
#ifndef _WIN32
    directory_.set(changing([&] { return open_directory(directory); }));
    if (directory_.get() < 0) fail("cannot save", named_, errno);
#endif
    temporary_ = create_temporary(directory, file_, [](const fs::path& path) { return open_new(path); });
    if (temporary_.empty()) fail("cannot save", named_, errno);
}

void ReplacementFile::reserve(uint64_t bytes) {
    if (changing([&] { return set_size(file_.get(), bytes); }) != 0) fail("cannot save", named_, errno);
}

void ReplacementFile::write(uint64_t offset, const std::byte* data, size_t bytes) {
    write_range(file_, offset, data, bytes, "cannot save", named_);
}

void ReplacementFile::read(uint64_t offset, std::byte* to, size_t bytes) const {
    if (read_range(file_, offset, to, bytes, "cannot save", named_) < bytes) fail("cannot save", named_, EIO);
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

ScratchFile::ScratchFile(const fs::path& directory) : directory_(directory) {
    if (create_temporary(directory, file_, open_unnamed).empty()) fail(kScratch, directory, errno);
}

void ScratchFile::append(const std::byte* data, size_t bytes) {
    if (bytes > kScratchBuffer - buffer_.size()) {
        write_range(file_, size_ - buffer_.size(), buffer_.data(), buffer_.size(), kScratch, directory_);
        buffer_.clear();
    }
    if (bytes > kScratchBuffer) {
        write_range(file_, size_, data, bytes, kScratch, directory_);
    } else {
        buffer_.insert(buffer_.end(), data, data + bytes);
    }
    size_ += bytes;
}

void ScratchFile::read(uint64_t offset, std::byte* to, size_t bytes) const {
    if (offset > size_ || bytes > size_ - offset) {
        throw std::invalid_argument("bytes from " + std::to_string(offset) + " to " + std::to_string(offset + bytes) +
                                    " of a scratch file of " + std::to_string(size_));
    }
    const uint64_t written = size_ - buffer_.size();
    if (offset < written) {
        const size_t part = static_cast<size_t>(std::min<uint64_t>(bytes, written - offset));
        if (read_range(file_, offset, to, part, kScratch, directory_) < part) fail(kScratch, directory_, EIO);
        offset += part;
        to += part;
        bytes -= part;
    }
    if (bytes > 0) std::memcpy(to, buffer_.data() + (offset - written), bytes);
}

}  // namespace nearfield::storage
