/* A stand-in for libnvidia-ml.so.1 that plays what real drivers do, and what they should not.
 *
 * NVML_STANDIN holds `key=value` words, or the path of a file that does; they are read at every call, so that a GPU can
 * fall off the bus in mid-run:
 *
 *   gpus=2           how many                          mig=2        instances that GPU 0 is cut up into
 *   unlike=1         GPU 1 is another model            init=9       what nvmlInit returns; count=N likewise
 *   lost=1           the GPU that is lost              lost_code=15 what its calls return then
 *   hang_ms=2000     how long a memory call takes      insane=1     figures that cannot be
 *   unsupported=1    no utilisation, no power          garbage=1    a name that is no text
 *   grow=1           so many lists are too short       total=BYTES  of each GPU
 *   procs=0/12/4096,1/77/-1   GPU, pid, bytes (-1: not available); many=500 adds so many on GPU 0
 *   draws=1          processes of graphics, the same
 *
 * NVML_STANDIN_LOG names a file that gets one letter a call: I init, H handle, M memory, P process list.
 * Built with MIDDLE_DRIVER it has process lists of version 2 only, with OLD_DRIVER it lacks what old drivers lack, with
 * ANCIENT_DRIVER even nvmlInitWithFlags.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { MAX_DEVICES = 8, MAX_INSTANCES = 7 };

struct device { int index, instance; };
struct memory { uint64_t total, free, used; };
struct memory_v2 { uint32_t version; uint64_t total, reserved, free, used; };
struct process { uint32_t pid; uint64_t used; uint32_t gpu_instance, compute_instance; };
struct utilization { uint32_t gpu, memory; };
struct temperature { uint32_t version, sensor; int32_t temperature; };

/* for a test that compares them with those of pynvml */
const uint32_t standin_layout[] = {
    sizeof(struct memory), offsetof(struct memory, free), offsetof(struct memory, used),
    sizeof(struct memory_v2), offsetof(struct memory_v2, reserved), offsetof(struct memory_v2, used),
    sizeof(struct process), offsetof(struct process, used), offsetof(struct process, gpu_instance),
    sizeof(struct utilization), sizeof(struct temperature), offsetof(struct temperature, temperature),
};

static struct device whole[MAX_DEVICES];

static const char *scenario(void)
{
    static __thread char text[1 << 16];
    const char *said = getenv("NVML_STANDIN");
    if (!said || said[0] != '/')
        return said ? said : "";
    int file = open(said, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? 0 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    text[size < 0 ? 0 : size] = 0;
    return text;
}

static const char *word(const char *key)
{
    const char *text = scenario();
    size_t length = strlen(key);
    for (const char *at = text; (at = strstr(at, key)); at += length)
        if (at[length] == '=' && (at == text || strchr(" \n", at[-1])))
            return at + length + 1;
    return NULL;
}

static long long number(const char *key, long long otherwise)
{
    const char *at = word(key);
    return at ? atoll(at) : otherwise;
}

static void note(char letter)
{
    const char *path = getenv("NVML_STANDIN_LOG");
    int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (file >= 0 && write(file, &letter, 1) == 1)
        close(file);
}

static int fault(const struct device *device)
{
    return number("lost", -1) == device->index ? (int)number("lost_code", 15) : SUCCESS;
}

static int fill_name(char *name, unsigned size, const char *text)
{
    snprintf(name, size, "%s", text);
    return SUCCESS;
}

#ifndef ANCIENT_DRIVER
int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    note('I');
    return (int)number("init", SUCCESS);
}
#endif

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code)
{
    (void)code;
    return "an error of the stand-in";
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = (unsigned)number("gpus", 1);
    return (int)number("count", SUCCESS);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device)
{
    note('H');
    if (index >= MAX_DEVICES || index >= number("gpus", 1))
        return INVALID_ARGUMENT;
    whole[index] = (struct device){.index = (int)index, .instance = -1};
    *device = &whole[index];
    return fault(*device);
}

int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned size)
{
    char text[80];
    if (device->instance < 0)
        snprintf(text, sizeof text, "GPU-%d0000000-aaaa-bbbb-cccc-000000000000", device->index);
    else
        snprintf(text, sizeof text, "MIG-%d0000000-aaaa-bbbb-cccc-00000000000%d", device->index, device->instance);
    return fault(device) ? fault(device) : fill_name(uuid, size, text);
}

int nvmlDeviceGetName(struct device *device, char *name, unsigned size)
{
    if (number("garbage", 0))
        return fill_name(name, size, "Stand-in \xff\xfe");
    if (device->instance >= 0)
        return fill_name(name, size, "Stand-in A100 MIG 3g.20gb");
    return fill_name(name, size, number("unlike", 0) && device->index ? "Stand-in T4" : "Stand-in A100");
}

static uint64_t total_of(const struct device *device)
{
    uint64_t total = (uint64_t)number("total", 40LL << 30);
    return device->instance < 0 ? total : total / 2;
}

/* the next of `procs` that is on this GPU, from *at on, which it moves; 0 at the end */
static int next_process(const char **at, int index, struct process *process)
{
    while (*at && **at && !strchr(" \n", **at)) {
        int gpu;
        long long used;
        int read = sscanf(*at, "%d/%u/%lld", &gpu, &process->pid, &used);
        process->used = (uint64_t)used;
        *at += strcspn(*at, ", \n");
        *at += **at == ',';
        if (read == 3 && gpu == index)
            return 1;
    }
    return 0;
}

static uint64_t listed_on(int index)
{
    struct process process = {0};
    uint64_t sum = 0;
    for (const char *at = word("procs"); next_process(&at, index, &process);)
        sum += process.used == UINT64_MAX ? 0 : process.used;
    return sum;
}

static void answer_slowly(void)
{
    long long ms = number("hang_ms", 0);
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (ms && nanosleep(&left, &left))
        continue;
}

int nvmlDeviceGetMemoryInfo(struct device *device, struct memory *memory)
{
    note('M');
    answer_slowly();
    uint64_t total = total_of(device), used = 512ULL << 20;
    used += device->instance > 0 ? 0 : listed_on(device->index);
    *memory = (struct memory){.total = total, .used = used, .free = total - used};
    if (number("insane", 0))
        *memory = (struct memory){.total = total, .used = UINT64_MAX, .free = 2 * total};
    return fault(device);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetMemoryInfo_v2(struct device *device, struct memory_v2 *memory)
{
    struct memory older;
    if (memory->version != (sizeof *memory | 2u << 24))
        return 25;
    int code = nvmlDeviceGetMemoryInfo(device, &older);
    memory->total = older.total;
    memory->free = older.free;
    memory->reserved = 512ULL << 20;
    memory->used = number("insane", 0) ? older.used : older.used - memory->reserved;
    return code;
}

static struct device part[MAX_INSTANCES];

int nvmlDeviceGetMigMode(struct device *device, unsigned *current, unsigned *pending)
{
    *current = *pending = number("mig", 0) && device->index == 0;
    return fault(device);
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *device, unsigned *count)
{
    *count = MAX_INSTANCES;
    return fault(device);
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct device *device, unsigned index, struct device **found)
{
    if (index >= MAX_INSTANCES || index >= number("mig", 0))
        return NOT_FOUND;
    part[index] = (struct device){.index = device->index, .instance = (int)index};
    *found = &part[index];
    return fault(device);
}

int nvmlDeviceGetGpuInstanceId(struct device *device, unsigned *id)
{
    *id = (unsigned)device->instance + 1;
    return SUCCESS;
}

int nvmlDeviceGetComputeInstanceId(struct device *device, unsigned *id)
{
    (void)device;
    *id = 0;
    return SUCCESS;
}

int nvmlDeviceGetTemperatureV(struct device *device, struct temperature *answer)
{
    answer->temperature = number("insane", 0) ? -40000 : 61 + device->index;
    return device->instance >= 0 ? NOT_SUPPORTED : fault(device);
}

static int list(struct device *device, unsigned *count, struct process *processes)
{
    static int refused;
    unsigned room = processes ? *count : 0, found = 0;
    struct process process = {0};
    const char *at = device->instance > 0 ? NULL : word("procs");
    for (; next_process(&at, device->index, &process); found++)
        if (found < room)
            processes[found] = process;
    for (int more = 0; more < number("many", 0) && device->index == 0; more++, found++)
        if (found < room)
            processes[found] = (struct process){.pid = 100000u + more, .used = (1ULL << 20) * (more + 1)};
    *count = found;
    if (fault(device))
        return fault(device);
    if (processes && refused < number("grow", 0)) {
        refused++;
        return INSUFFICIENT_SIZE;
    }
    if (processes)
        refused = 0;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

#ifdef MIDDLE_DRIVER
#define COMPUTE nvmlDeviceGetComputeRunningProcesses_v2
#define GRAPHICS nvmlDeviceGetGraphicsRunningProcesses_v2
#else
#define COMPUTE nvmlDeviceGetComputeRunningProcesses_v3
#define GRAPHICS nvmlDeviceGetGraphicsRunningProcesses_v3
#endif

int COMPUTE(struct device *device, unsigned *count, struct process *processes)
{
    if (processes)
        note('P');
    return list(device, count, processes);
}

int GRAPHICS(struct device *device, unsigned *count, struct process *processes)
{
    if (number("draws", 0))
        return list(device, count, processes);
    *count = 0;
    return device->instance >= 0 ? NOT_SUPPORTED : fault(device);
}
#endif

int nvmlDeviceGetTemperature(struct device *device, unsigned sensor, unsigned *celsius)
{
    (void)sensor;
    *celsius = 50u + (unsigned)device->index;
    return device->instance >= 0 ? NOT_SUPPORTED : fault(device);
}

int nvmlDeviceGetUtilizationRates(struct device *device, struct utilization *rates)
{
    *rates = (struct utilization){.gpu = number("insane", 0) ? UINT32_MAX : 83, .memory = 40};
    return device->instance >= 0 || number("unsupported", 0) ? NOT_SUPPORTED : fault(device);
}

int nvmlDeviceGetPowerUsage(struct device *device, unsigned *milliwatts)
{
    *milliwatts = number("insane", 0) ? UINT32_MAX : 312500;
    return device->instance >= 0 || number("unsupported", 0) ? NOT_SUPPORTED : fault(device);
}
