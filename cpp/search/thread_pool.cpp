#include "search/thread_pool.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#elif !defined(_WIN32)
#include <pthread.h>
#endif

namespace nearfield {
namespace {

// What `checkpoint` asks on this thread while it works for a parallel_for: whether to go on.
thread_local const std::function<bool()>* current_check = nullptr;

class Checked {
  public:
    explicit Checked(const std::function<bool()>& check) : before_(current_check) { current_check = &check; }
    ~Checked() { current_check = before_; }
    Checked(const Checked&) = delete;
    Checked& operator=(const Checked&) = delete;

  private:
    const std::function<bool()>* before_;
};

// A parallel_for in progress; workers that come too late find no item left.
struct Job {
    size_t items;
    const std::function<void(size_t)>* work;
    std::atomic<size_t> next{0}, done{0};
    std::atomic<bool> stop{false};
    std::mutex mutex;  // guards what follows
    std::condition_variable idle;
    size_t busy = 0;
    std::exception_ptr error;

    // Takes items until none is left or `go_on`, asked after each item and at checkpoints, says no.
    void help(const std::function<bool()>& go_on) {
        const Checked checked(go_on);
        while (!stop.load(std::memory_order_relaxed)) {
            const size_t item = next.fetch_add(1, std::memory_order_relaxed);
            if (item >= items) return;
            try {
                (*work)(item);
            } catch (...) {
                const std::lock_guard lock(mutex);
                if (!error) error = std::current_exception();
                stop = true;
            }
            done.fetch_add(1, std::memory_order_relaxed);
            go_on();
        }
    }
};

class Pool {
  public:
    // Asks `count` workers for help with a job. Fewer or none come when the system has no thread or memory left for
    // them: whoever calls can do all the work alone.
    void call(const std::shared_ptr<Job>& job, size_t count) noexcept {
        const std::lock_guard lock(mutex_);
        try {
            for (size_t i = 0; i < count; ++i) queue_.push_back(job);
            const size_t most = usable_cpus();
            while (idle_ < queue_.size() && workers_ < most) {
                std::thread([this] { serve(); }).detach();
                ++workers_;
                ++idle_;
            }
        } catch (const std::exception&) {
        }
        ready_.notify_all();
    }

  private:
    void serve() {
        for (;;) {
            std::shared_ptr<Job> job;
            {
                std::unique_lock lock(mutex_);
                ready_.wait(lock, [this] { return !queue_.empty(); });
                job = std::move(queue_.front());
                queue_.pop_front();
                --idle_;
            }
            serve(*job);
            const std::lock_guard lock(mutex_);
            ++idle_;
        }
    }

    static void serve(Job& job) {
        {
            const std::lock_guard lock(job.mutex);
            if (job.next.load(std::memory_order_relaxed) >= job.items || job.stop) return;
            ++job.busy;
        }
        job.help([&job] { return !job.stop; });
        const std::lock_guard lock(job.mutex);
        --job.busy;
        job.idle.notify_all();
    }

    std::mutex mutex_;
    std::condition_variable ready_;
    std::deque<std::shared_ptr<Job>> queue_;
    size_t workers_ = 0, idle_ = 0;  // idle: not at work on a job
};

std::atomic<Pool*> current_pool{nullptr};

// A forked child has none of its parent's threads, and its copy of the pool's lock may be held by one of them: the
// child starts with a new pool. Pools are never destroyed, so that no worker outlives one.
Pool& pool() {
    Pool* found = current_pool.load(std::memory_order_acquire);
    if (found != nullptr) return *found;
#if !defined(_WIN32)
    static const int registered = pthread_atfork(nullptr, nullptr, [] { current_pool.store(nullptr); });
    (void)registered;
#endif
    auto* made = new Pool;
    if (current_pool.compare_exchange_strong(found, made)) return *made;
    delete made;
    return *found;
}

// CPUs that the control group's quota pays for, rounded up; `none` without a quota.
size_t quota(size_t none) {
#if defined(__linux__)
    std::ifstream file("/sys/fs/cgroup/cpu.max");  // version 2: "max 100000" or "150000 100000"
    std::string limit;
    double period = 0;
    if (file >> limit >> period && limit != "max" && period > 0) {
        return static_cast<size_t>(std::max(1.0, std::stod(limit) / period + 0.999));
    }
    std::ifstream old_limit("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), old_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    double micros = 0;
    if (old_limit >> micros && old_period >> period && micros > 0 && period > 0) {
        return static_cast<size_t>(std::max(1.0, micros / period + 0.999));
    }
#endif
    return none;
}

}  // namespace

size_t usable_cpus() {
    static const size_t paid = quota(static_cast<size_t>(-1));
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) {
        return std::min(static_cast<size_t>(std::max(1, CPU_COUNT(&set))), paid);
    }
#endif
    static const size_t present = std::max(1u, std::thread::hardware_concurrency());  // reads a file on some systems
    return std::min(present, paid);
}

Run part_of(const Run& run, double from, double to) {
    if (!run.poll) return run;
    return {run.threads, [poll = run.poll, from, to](double share) { return poll(from + (to - from) * share); }};
}

void checkpoint() {
    if (current_check != nullptr && !(*current_check)()) throw Interrupted{};
}

void parallel_for(size_t items, const Run& run, const std::function<void(size_t)>& work) {
    const size_t threads = std::min(items, run.threads == 0 ? usable_cpus() : run.threads);
    const auto job = std::make_shared<Job>();
    job->items = items;
    job->work = &work;
    if (threads > 1) pool().call(job, threads - 1);
    using Clock = std::chrono::steady_clock;
    constexpr auto kEvery = std::chrono::milliseconds(50);
    auto polled = Clock::now();
    bool stopped = false;
    const std::function<bool()> go_on = [&] {
        if (!run.poll || stopped || Clock::now() - polled < kEvery) return !job->stop;
        polled = Clock::now();
        if (!run.poll(static_cast<double>(job->done.load()) / static_cast<double>(items))) {
            stopped = true;
            job->stop = true;
        }
        return !job->stop;
    };
    job->help(go_on);
    std::unique_lock lock(job->mutex);
    while (job->busy > 0) {  // workers finish their last items
        job->idle.wait_for(lock, kEvery);
        lock.unlock();
        go_on();
        lock.lock();
    }
    if (job->error) std::rethrow_exception(job->error);
    if (stopped) throw Interrupted{};
}

}  // namespace nearfield
