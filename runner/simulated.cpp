// A CPU allocator with a device's manners: exact live bytes and peaks, a hard capacity, a real torch.OutOfMemoryError.
//
// Loaded by simulated.py through ctypes. Every allocation carries a 64-byte header (torch expects 64-byte alignment) that
// says how large it is and whether it counts, so that tensors may outlive the scope, or the simulation, they were made in.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

namespace {

constexpr size_t kHeaderBytes = 64;
constexpr size_t kMiB = 1024 * 1024;
constexpr size_t kBlockBytes = 512;    // every block is a multiple of it
constexpr size_t kSmallBytes = kMiB;   // the most that comes from a small segment
constexpr size_t kSegmentBytes = 2 * kMiB;  // a small segment; large ones are a multiple of it

size_t round_up(size_t bytes, size_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

// A piece of a segment, in a list with its neighbours.
struct Block {
  size_t bytes, address;
  bool is_small;
  bool is_free = false;
  Block *before = nullptr, *after = nullptr;

  bool is_whole_segment() const { return before == nullptr && after == nullptr; }
};

struct BestFitFirst {
  bool operator()(const Block* left, const Block* right) const {
    return left->bytes != right->bytes ? left->bytes < right->bytes : left->address < right->address;
  }
};

// What torch's caching allocator would hold of the device for the same allocations, by the rules of its source: the free
// block that fits best, cut when enough is left, merged with its neighbours when freed; up to 1 MiB from segments of 2 MiB,
// up to 10 MiB from segments of 20 MiB (of an eighth of a small device), more from a segment of its own, rounded to 2 MiB.
//
// Not modelled: streams, graphs, PYTORCH_ALLOC_CONF. And nothing is refused for want of a segment: a real device may
// refuse what its free fragments cannot hold, this one only tensors that are larger than what is left of the capacity.
class CachingModel {
 public:
  size_t reserved = 0;
  size_t unused = 0;  // of it, in segments where nothing lives: what emptying the cache gives back
  int64_t num_retries = 0;

  void start(size_t device_bytes) {
    device_bytes_ = device_bytes;
    shared_bytes_ = std::clamp(device_bytes / 8 / kSegmentBytes * kSegmentBytes, kSegmentBytes, 20 * kMiB);
    num_retries = 0;
    empty();
  }

  Block* take(size_t asked) {
    const size_t bytes = round_up(asked, kBlockBytes);
    const bool is_small = bytes <= kSmallBytes;
    Block wanted{bytes, 0, is_small};
    const auto fitting = free_[is_small].lower_bound(&wanted);
    Block* block = fitting != free_[is_small].end() ? *fitting : new_segment(bytes, is_small);
    free_[is_small].erase(block);
    if (block->is_whole_segment()) unused -= block->bytes;
    block->is_free = false;
    const size_t rest = block->bytes - bytes;
    if (is_small ? rest >= kBlockBytes : rest > kSmallBytes) cut(block, bytes);
    return block;
  }

  void give(Block* block) {
    if (block->before != nullptr && block->before->is_free) block = merge(block->before, block);
    if (block->after != nullptr && block->after->is_free) block = merge(block, block->after);
    add_free(block);
  }

  void retry() {
    ++num_retries;
    empty();
  }

  void empty() {
    for (auto& blocks : free_) {
      for (auto block = blocks.begin(); block != blocks.end();) {
        Block* segment = *block;
        if (!segment->is_whole_segment()) {
          ++block;
          continue;
        }
        block = blocks.erase(block);
        reserved -= segment->bytes;
        delete segment;
      }
    }
    unused = 0;
  }

 private:
  size_t device_bytes_ = SIZE_MAX, shared_bytes_ = 20 * kMiB, next_address_ = 0;
  std::set<Block*, BestFitFirst> free_[2];  // large and small: they never share a segment

  Block* new_segment(size_t bytes, bool is_small) {
    const bool shares = bytes < shared_bytes_ / 2;
    const size_t size = is_small ? kSegmentBytes : shares ? shared_bytes_ : round_up(bytes, kSegmentBytes);
    if (reserved + size > device_bytes_) retry();
    Block* segment = new Block{size, next_address_, is_small};
    next_address_ += size;
    reserved += size;
    add_free(segment);
    return segment;
  }

  void add_free(Block* block) {
    block->is_free = true;
    free_[block->is_small].insert(block);
    if (block->is_whole_segment()) unused += block->bytes;
  }

  void cut(Block* block, size_t bytes) {
    Block* rest = new Block{block->bytes - bytes, block->address + bytes, block->is_small};
    rest->before = block;
    rest->after = block->after;
    if (rest->after != nullptr) rest->after->before = rest;
    block->after = rest;
    block->bytes = bytes;
    add_free(rest);
  }

  Block* merge(Block* left, Block* right) {
    free_[left->is_small].erase(left->is_free ? left : right);
    left->is_free = false;
    left->bytes += right->bytes;
    left->after = right->after;
    if (left->after != nullptr) left->after->before = left;
    delete right;
    return left;
  }
};

struct Header {
  size_t bytes;
  Block* block;  // nullptr: it does not count
};

struct Stats {
  int64_t capacity, allocated, reserved, inactive_split, peak_allocated, peak_reserved, num_alloc_retries, num_ooms;
};

std::mutex mutex;
size_t capacity = SIZE_MAX;
size_t allocated = 0, peak_allocated = 0, peak_reserved = 0;
int64_t num_ooms = 0, fail_in = 0;
CachingModel cache;
Stats at_refusal;
int64_t refused_bytes = 0;  // 0: nothing was refused since someone asked
thread_local int host_depth = 0;

// Never above the capacity: where the model needs more, a real device would have run out of memory or been defragmented.
size_t reserved_bytes() {
  return std::max(allocated, std::min(capacity, cache.reserved));
}

size_t unused_bytes() {
  return std::min(cache.unused, reserved_bytes() - allocated);
}

Stats stats_now() {
  const size_t reserved = reserved_bytes();
  return {static_cast<int64_t>(capacity),       static_cast<int64_t>(allocated),
          static_cast<int64_t>(reserved),       static_cast<int64_t>(reserved - allocated - unused_bytes()),
          static_cast<int64_t>(peak_allocated), static_cast<int64_t>(peak_reserved),
          cache.num_retries,                    num_ooms};
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

Block* count(size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  const bool told_to_fail = fail_in > 0 && --fail_in == 0;
  const bool is_full = bytes > capacity || allocated > capacity - bytes;
  if (told_to_fail || is_full) {
    if (is_full) cache.retry();  // as torch does before it gives up
    ++num_ooms;
    at_refusal = stats_now();
    refused_bytes = static_cast<int64_t>(bytes);
    throw c10::OutOfMemoryError({__func__, "simulated device", 0}, out_of_memory_message(bytes));
  }
  allocated += bytes;
  Block* block = cache.take(bytes);
  peak_allocated = std::max(peak_allocated, allocated);
  peak_reserved = std::max(peak_reserved, reserved_bytes());
  return block;
}

void discount(const Header& header) {
  std::lock_guard<std::mutex> lock(mutex);
  allocated -= header.bytes;
  cache.give(header.block);
}

void release(void* data) {
  if (data == nullptr) return;
  void* raw = static_cast<char*>(data) - kHeaderBytes;
  const Header header = *static_cast<Header*>(raw);
  std::free(raw);
  if (header.block != nullptr) discount(header);
}

struct SimulatedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &release, cpu};
    const Header header{bytes, host_depth == 0 ? count(bytes) : nullptr};
    void* raw = nullptr;
    if (posix_memalign(&raw, kHeaderBytes, bytes + kHeaderBytes) != 0) {
      if (header.block != nullptr) discount(header);
      TORCH_CHECK(false, "DefaultCPUAllocator: can't allocate memory: you tried to allocate ", bytes, " bytes.");
    }
    *static_cast<Header*>(raw) = header;
    void* data = static_cast<char*>(raw) + kHeaderBytes;
    return {data, data, &release, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

SimulatedAllocator allocator;

}  // namespace

extern "C" {

void memdash_start(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  capacity = static_cast<size_t>(bytes);
  num_ooms = fail_in = refused_bytes = 0;
  cache.start(capacity);
  peak_allocated = allocated;
  peak_reserved = reserved_bytes();
  c10::SetCPUAllocator(&allocator, 100);
}

void memdash_stop() { c10::SetCPUAllocator(c10::GetDefaultCPUAllocator(), 100); }

// Reading also restarts the peaks, and forgets what was refused before.
void memdash_read(Stats* stats) {
  std::lock_guard<std::mutex> lock(mutex);
  *stats = stats_now();
  peak_allocated = allocated;
  peak_reserved = reserved_bytes();
  refused_bytes = 0;
}

// The figures of the last refusal, once; the bytes that were asked for, or 0.
int64_t memdash_take_refusal(Stats* stats) {
  std::lock_guard<std::mutex> lock(mutex);
  *stats = at_refusal;
  return std::exchange(refused_bytes, 0);
}

int64_t memdash_empty_cache() {
  std::lock_guard<std::mutex> lock(mutex);
  const size_t before = reserved_bytes();
  cache.empty();
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
