// The library's own threads: few, lazily made, and gone in a forked child.
#pragma once

#include <cstddef>
#include <functional>

namespace nearfield {

// Thrown out of a long call when its caller asked it to stop.
struct Interrupted {};

// How a call runs: how many threads it may use (0: all that this process may use), and a function that is called now
// and then on the calling thread with the share of the work that is done; it returns false to stop the call, and must
// not throw.
struct Run {
    size_t threads = 0;
    std::function<bool(double)> poll;
};

// The same run seen as a part of a longer one: progress from `from` to `to`.
Run part_of(const Run& run, double from, double to);

// For long work items to call now and then: lets the caller's poll run, and throws Interrupted once the call was
// stopped.
void checkpoint();

// CPUs that this process may use: the affinity mask and the control group's quota, at least 1.
size_t usable_cpus();

// Calls work(0) .. work(items - 1), each once, on up to run.threads threads, the calling one among them. Rethrows the
// first exception of a work item; throws Interrupted when the poll asked to stop. Items not yet begun are then left
// out.
void parallel_for(size_t items, const Run& run, const std::function<void(size_t)>& work);

}  // namespace nearfield
