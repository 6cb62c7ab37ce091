// A CPU allocator with a device's manners: exact live bytes and peaks, a hard capacity, a real torch.OutOfMemoryError.
//
// Loaded by simulated.py through ctypes. Every block carries a 64-byte header (torch expects 64-byte alignment) that
// says how large it is and whether it counts, so that tensors may outlive the scope, or the simulation, they were made in.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

namespace {

constexpr size_t kHeaderBytes = 64;
constexpr size_t kMiB = 1024 * 1024;

struct Header {
  size_t bytes;
  bool counted;
};

size_t round_up(size_t bytes, size_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

// What torch's caching allocator would hold from the device for blocks of one size class: live bytes in whole segments,
// kept until someone empties the cache. Reuse is taken to be perfect; fragmentation is not modelled.
struct Pool {
  size_t block, segment;
  size_t live = 0, kept = 0;

  size_t needed() const { return round_up(live, segment); }
  void add(size_t bytes) {
    live += round_up(bytes, block);
    kept = std::max(kept, needed());
  }
  void remove(size_t bytes) { live -= round_up(bytes, block); }
};

std::mutex mutex;
size_t capacity = SIZE_MAX;
size_t allocated = 0, peak_allocated = 0, peak_reserved = 0;
int64_t num_ooms = 0, num_alloc_retries = 0, fail_in = 0;
thread_local int host_depth = 0;

// The sizes are those that torch documents for CUDA: blocks of 512 B; up to 1 MiB from segments of 2 MiB, up to 10 MiB
// from segments of 20 MiB (of an eighth of a small device), larger ones in segments of their own, rounded to 2 MiB.
Pool pools[] = {{512, 2 * kMiB}, {512, 20 * kMiB}, {2 * kMiB, 2 * kMiB}};

Pool& pool_for(size_t bytes) {
  return pools[bytes <= kMiB ? 0 : bytes < 10 * kMiB ? 1 : 2];
}

size_t kept_bytes() {
  size_t sum = 0;
  for (const Pool& pool : pools) sum += pool.kept;
  return sum;
}

// Never above the capacity: the last segment is cut to what is left of the device.
size_t reserved_bytes() {
  return std::max(allocated, std::min(capacity, kept_bytes()));
}

void release_unused() {
  for (Pool& pool : pools) pool.kept = pool.needed();
}

std::string mib(size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f MiB", static_cast<double>(bytes) / kMiB);
  return text;
}

// Worded like CUDA's message, so that whoever parses that one parses this one.
std::string out_of_memory_message(size_t bytes) {
  return "Simulated device out of memory. Tried to allocate " + mib(bytes) + " (" + std::to_string(bytes) +
      " bytes). The simulated device has a total capacity of " + mib(capacity) + " of which " +
      mib(capacity - std::min(capacity, allocated)) + " is free. Of the allocated memory " + mib(allocated) +
      " is allocated by PyTorch, and " + mib(reserved_bytes() - allocated) + " is reserved by PyTorch but unallocated.";
}

void count(size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  const bool told_to_fail = fail_in > 0 && --fail_in == 0;
  if (told_to_fail || bytes > capacity || allocated > capacity - bytes) {
    ++num_ooms;
    throw c10::OutOfMemoryError({__func__, "simulated device", 0}, out_of_memory_message(bytes));
  }
  allocated += bytes;
  pool_for(bytes).add(bytes);
  if (kept_bytes() > capacity) {
    const size_t before = kept_bytes();
    release_unused();
    if (kept_bytes() < before) ++num_alloc_retries;
  }
  peak_allocated = std::max(peak_allocated, allocated);
  peak_reserved = std::max(peak_reserved, reserved_bytes());
}

void discount(size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  allocated -= bytes;
  pool_for(bytes).remove(bytes);
}

void release(void* data) {
  if (data == nullptr) return;
  void* raw = static_cast<char*>(data) - kHeaderBytes;
  const Header header = *static_cast<Header*>(raw);
  std::free(raw);
  if (header.counted) discount(header.bytes);
}

struct SimulatedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &release, cpu};
    const bool counted = host_depth == 0;
    if (counted) count(bytes);
    void* raw = nullptr;
    if (posix_memalign(&raw, kHeaderBytes, bytes + kHeaderBytes) != 0) {
      if (counted) discount(bytes);
      TORCH_CHECK(false, "DefaultCPUAllocator: can't allocate memory: you tried to allocate ", bytes, " bytes.");
    }
    *static_cast<Header*>(raw) = {bytes, counted};
    void* data = static_cast<char*>(raw) + kHeaderBytes;
    return {data, data, &release, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

SimulatedAllocator allocator;

}  // namespace

extern "C" {

struct Stats {
  int64_t capacity, allocated, reserved, peak_allocated, peak_reserved, num_alloc_retries, num_ooms;
};

void memdash_start(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  capacity = static_cast<size_t>(bytes);
  num_ooms = num_alloc_retries = fail_in = 0;
  pools[1].segment = std::clamp(capacity / 8 / (2 * kMiB) * (2 * kMiB), 2 * kMiB, 20 * kMiB);
  release_unused();
  peak_allocated = allocated;
  peak_reserved = reserved_bytes();
  c10::SetCPUAllocator(&allocator, 100);
}

void memdash_stop() { c10::SetCPUAllocator(c10::GetDefaultCPUAllocator(), 100); }

// Reading also restarts the peaks.
void memdash_read(Stats* stats) {
  std::lock_guard<std::mutex> lock(mutex);
  const size_t reserved = reserved_bytes();
  *stats = {static_cast<int64_t>(capacity), static_cast<int64_t>(allocated), static_cast<int64_t>(reserved),
            static_cast<int64_t>(peak_allocated), static_cast<int64_t>(peak_reserved), num_alloc_retries, num_ooms};
  peak_allocated = allocated;
  peak_reserved = reserved;
}

int64_t memdash_empty_cache() {
  std::lock_guard<std::mutex> lock(mutex);
  const size_t before = reserved_bytes();
  release_unused();
  return static_cast<int64_t>(before - reserved_bytes());
}

void memdash_enter_host() { ++host_depth; }
void memdash_leave_host() { --host_depth; }

// The nth counted allocation from now on fails once, whatever is free: a rehearsal of another process's brief appetite.
void memdash_fail_in(int64_t allocations) {
  std::lock_guard<std::mutex> lock(mutex);
  fail_in = allocations;
}
}
