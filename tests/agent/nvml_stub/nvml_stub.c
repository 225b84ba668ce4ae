/* A libnvidia-ml.so.1 that does what a text file tells it to.
 *
 * The file is named by NVML_STUB_FILE and looked at on every call, so that a test can unplug a
 * card, break a field or hang a call while a worker runs. A line is a key, a blank and a value:
 *
 *   cards 0 1                                  which cards the driver lists, in their order
 *   driver_version 570.86                      and other values, see the functions
 *   nvmlInitWithFlags.error 9                  what a call returns
 *   nvmlDeviceGetCount_v2.hang 1               a call that returns once this line is gone
 *   card1.lost 15                              what every call about card 1 returns
 *   card1.nvmlDeviceGetFanSpeed.error 3        what one call about card 1 returns
 *   card1.nvmlDeviceGetName.hang 1
 *   card1.temperature 4000                     a value, garbage included
 *   card1.compute 4711:1048576 4712:n/a        processes, as pid:bytes
 *   card1.mig 1
 *   card1.mig0.uuid MIG-...                    an instance
 *   card1.xids 48 94:2                         errors so far, some of a GPU instance
 *   card1.nvmlDeviceSetComputeMode.ignored 1   a call that succeeds and changes nothing
 *
 * What a call has set is kept in a second file, `<NVML_STUB_FILE>.set`, a line after the other, for
 * every process as a driver does. It goes before what the first file says.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10,
    RESET_REQUIRED = 16
};

#define MAX_CARDS 64
#define NO_INSTANCE -1

typedef struct {
    int card;
    int instance;
} device_t;

typedef struct {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance;
    unsigned int compute_instance;
} process_t;

static device_t cards[MAX_CARDS];
static device_t instances[MAX_CARDS][8];

/* The file's text, read again where the file is another one: a driver's call costs next to nothing,
 * and what an agent costs is measured on this one. Of each thread, so that none waits. */
static const char *contents(void)
{
    static __thread char read_before[16384];
    static __thread struct stat before;
    const char *path = getenv("NVML_STUB_FILE");
    struct stat now;
    FILE *file;
    size_t length;
    if (!path || stat(path, &now))
        return "";
    if (now.st_ino == before.st_ino && now.st_mtim.tv_sec == before.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == before.st_mtim.tv_nsec)
        return read_before;
    file = fopen(path, "rb");
    if (!file)
        return "";
    /* Of the file that is read, which may have taken the other one's place by now. */
    fstat(fileno(file), &before);
    length = fread(read_before, 1, sizeof read_before - 1, file);
    read_before[length] = '\0';
    fclose(file);
    return read_before;
}

/* Copies the value of `key` to `value`; 0 where the file has no such key. */
static int text(const char *key, char *value, size_t size)
{
    const char *line = contents();
    size_t length = strlen(key);
    for (;;) {
        const char *end = strchr(line, '\n');
        if (!strncmp(line, key, length) && line[length] == ' ') {
            const char *found = line + length + 1;
            int room = end ? (int)(end - found) : (int)strlen(found);
            snprintf(value, size, "%.*s", room, found);
            return 1;
        }
        if (!end)
            return 0;
        line = end + 1;
    }
}

static int number(const char *key, unsigned long long *value)
{
    char found[64];
    if (!text(key, found, sizeof found))
        return 0;
    *value = strtoull(found, NULL, 10);
    return 1;
}

static void key_of(char *key, size_t size, const device_t *device, const char *name)
{
    if (device->instance == NO_INSTANCE)
        snprintf(key, size, "card%d.%s", device->card, name);
    else
        snprintf(key, size, "card%d.mig%d.%s", device->card, device->instance, name);
}

static unsigned long long value_of(const device_t *device, const char *name,
                                   unsigned long long otherwise)
{
    char key[128];
    key_of(key, sizeof key, device, name);
    number(key, &otherwise);
    return otherwise;
}

static FILE *settings(const char *mode)
{
    char path[4096];
    const char *file = getenv("NVML_STUB_FILE");
    snprintf(path, sizeof path, "%s.set", file ? file : "");
    return fopen(path, mode);
}

/* What the card is set to: the last that was set, or else what the test says. */
static unsigned int setting(const device_t *device, const char *name, unsigned int otherwise)
{
    char key[128], line[256];
    unsigned int value = (unsigned int)value_of(device, name, otherwise);
    FILE *file = settings("r");
    size_t length;
    if (!file)
        return value;
    key_of(key, sizeof key, device, name);
    length = strlen(key);
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, key, length) && line[length] == ' ')
            value = (unsigned int)strtoul(line + length + 1, NULL, 10);
    fclose(file);
    return value;
}

static void set(const device_t *device, const char *function, const char *name, unsigned int value)
{
    unsigned long long ignored;
    char key[192], call[128];
    FILE *file;
    snprintf(call, sizeof call, "%s.ignored", function);
    key_of(key, sizeof key, device, call);
    if (number(key, &ignored) || !(file = settings("a")))
        return;
    key_of(key, sizeof key, device, name);
    fprintf(file, "%s %u\n", key, value);
    fclose(file);
}

static int fill(const device_t *device, const char *name, const char *otherwise, char *buffer,
                unsigned int size)
{
    char key[128], value[1024];
    key_of(key, sizeof key, device, name);
    snprintf(buffer, size, "%s", text(key, value, sizeof value) ? value : otherwise);
    return SUCCESS;
}

static void hang(const char *key)
{
    unsigned long long value;
    while (number(key, &value))
        usleep(10000);
}

/* What the file makes of a call before it gets to work: nothing, an error, or no return at all. */
static int begin(const device_t *device, const char *function)
{
    unsigned long long value;
    char name[128], key[192];
    snprintf(key, sizeof key, "%s.hang", function);
    if (number(key, &value))
        hang(key);
    snprintf(key, sizeof key, "%s.error", function);
    if (number(key, &value))
        return (int)value;
    if (!device)
        return SUCCESS;
    snprintf(key, sizeof key, "card%d.lost", device->card);
    if (number(key, &value))
        return (int)value;
    snprintf(name, sizeof name, "%s.hang", function);
    key_of(key, sizeof key, device, name);
    if (number(key, &value))
        hang(key);
    snprintf(name, sizeof name, "%s.error", function);
    key_of(key, sizeof key, device, name);
    return number(key, &value) ? (int)value : SUCCESS;
}

#define BEGIN(device)                                   \
    do {                                                \
        int begun = begin((device), __func__);          \
        if (begun != SUCCESS)                           \
            return begun;                               \
    } while (0)

int nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    BEGIN(NULL);
    /* Drivers write where they please; the worker must keep that out of its answers. */
    printf("stub: initialised\n");
    fflush(stdout);
    return SUCCESS;
}

int nvmlShutdown(void)
{
    BEGIN(NULL);
    return SUCCESS;
}

const char *nvmlErrorString(int code)
{
    static char said[64];
    snprintf(said, sizeof said, "stub error \xff %d", code);
    return said;
}

int nvmlSystemGetDriverVersion(char *version, unsigned int size)
{
    char value[80];
    BEGIN(NULL);
    snprintf(version, size, "%s",
             text("driver_version", value, sizeof value) ? value : "570.86.15");
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    unsigned long long value = 12080;
    BEGIN(NULL);
    number("cuda_version", &value);
    *version = (int)value;
    return SUCCESS;
}

/* The card at an index, or -1. */
static int card_at(unsigned int index)
{
    char listed[256], *rest = listed, *word;
    if (!text("cards", listed, sizeof listed))
        return -1;
    while ((word = strtok_r(rest, " ", &rest)))
        if (index-- == 0)
            return atoi(word);
    return -1;
}

int nvmlDeviceGetCount_v2(unsigned int *count)
{
    BEGIN(NULL);
    for (*count = 0; card_at(*count) >= 0; ++*count)
        ;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device_t **device)
{
    int card = card_at(index);
    if (card < 0 || card >= MAX_CARDS)
        return INVALID_ARGUMENT;
    cards[card].card = card;
    cards[card].instance = NO_INSTANCE;
    *device = &cards[card];
    BEGIN(*device);
    return SUCCESS;
}

int nvmlDeviceGetUUID(device_t *device, char *uuid, unsigned int size)
{
    char otherwise[96];
    BEGIN(device);
    snprintf(otherwise, sizeof otherwise, "GPU-00000000-0000-4000-8000-%012d", device->card);
    return fill(device, "uuid", otherwise, uuid, size);
}

int nvmlDeviceGetName(device_t *device, char *name, unsigned int size)
{
    BEGIN(device);
    return fill(device, "name", "NVIDIA Stub 80GB", name, size);
}

int nvmlDeviceGetSerial(device_t *device, char *serial, unsigned int size)
{
    BEGIN(device);
    return fill(device, "serial", "1650000000001", serial, size);
}

int nvmlDeviceGetVbiosVersion(device_t *device, char *version, unsigned int size)
{
    BEGIN(device);
    return fill(device, "vbios", "96.00.74.00.01", version, size);
}

typedef struct {
    char bus_id_legacy[16];
    unsigned int domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} pci_info_t;

int nvmlDeviceGetPciInfo_v3(device_t *device, pci_info_t *info)
{
    char otherwise[32];
    BEGIN(device);
    memset(info, 0, sizeof *info);
    snprintf(otherwise, sizeof otherwise, "00000000:%02X:00.0", 16 + device->card);
    return fill(device, "pci", otherwise, info->bus_id, sizeof info->bus_id);
}

int nvmlDeviceGetMemoryInfo(device_t *device, unsigned long long memory[3])
{
    BEGIN(device);
    memory[0] = value_of(device, "memory.total", 80ULL << 30);
    memory[2] = value_of(device, "memory.used", 10ULL << 30);
    memory[1] = memory[0] - memory[2];
    return SUCCESS;
}

typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} memory_v2_t;

int nvmlDeviceGetMemoryInfo_v2(device_t *device, memory_v2_t *memory)
{
    BEGIN(device);
    memory->total = value_of(device, "memory.total", 80ULL << 30);
    memory->used = value_of(device, "memory.used", 10ULL << 30);
    memory->reserved = 0;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimitConstraints(device_t *device, unsigned int *low,
                                                 unsigned int *high)
{
    BEGIN(device);
    *low = 200000;
    *high = (unsigned int)value_of(device, "power.max", 700000);
    return SUCCESS;
}

int nvmlDeviceGetMigMode(device_t *device, unsigned int *current, unsigned int *pending)
{
    BEGIN(device);
    *current = setting(device, "mig", 0);
    *pending = setting(device, "mig.pending", *current);
    return SUCCESS;
}

/* With `card1.mig.reset 1` the mode changes at the card's next reset, which never comes. */
int nvmlDeviceSetMigMode(device_t *device, unsigned int mode, int *status)
{
    BEGIN(device);
    *status = value_of(device, "mig.reset", 0) ? RESET_REQUIRED : SUCCESS;
    if (*status == SUCCESS)
        set(device, __func__, "mig", mode);
    set(device, __func__, "mig.pending", mode);
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(device_t *device, unsigned int *count)
{
    BEGIN(device);
    *count = 7;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(device_t *device, unsigned int index, device_t **instance)
{
    char key[64], value[96];
    BEGIN(device);
    snprintf(key, sizeof key, "card%d.mig%u.uuid", device->card, index);
    if (index >= 8 || !text(key, value, sizeof value))
        return NOT_FOUND;
    *instance = &instances[device->card][index];
    (*instance)->card = device->card;
    (*instance)->instance = (int)index;
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(device_t *device, unsigned int *id)
{
    BEGIN(device);
    *id = (unsigned int)value_of(device, "gpu_instance", 1);
    return SUCCESS;
}

int nvmlDeviceGetComputeInstanceId(device_t *device, unsigned int *id)
{
    BEGIN(device);
    *id = (unsigned int)value_of(device, "compute_instance", 0);
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(device_t *device, unsigned int rates[2])
{
    BEGIN(device);
    rates[0] = (unsigned int)value_of(device, "utilization", 40);
    rates[1] = (unsigned int)value_of(device, "utilization.memory", 20);
    return SUCCESS;
}

/* Functions that give one number. */
#define NUMBER(function, type, name, otherwise)             \
    int function(device_t *device, type *value)             \
    {                                                       \
        BEGIN(device);                                      \
        *value = (type)value_of(device, name, otherwise);   \
        return SUCCESS;                                     \
    }

NUMBER(nvmlDeviceGetPowerUsage, unsigned int, "power", 350000)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned int, "power.limit", 700000)
NUMBER(nvmlDeviceGetFanSpeed, unsigned int, "fan", 30)
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "reasons", 4)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "reasons.old", 8)

/* Functions that read and set one number. */
#define SETTING(getter, setter, name, otherwise)                \
    int getter(device_t *device, unsigned int *value)           \
    {                                                           \
        BEGIN(device);                                          \
        *value = setting(device, name, otherwise);              \
        return SUCCESS;                                         \
    }                                                           \
    int setter(device_t *device, unsigned int value)            \
    {                                                           \
        BEGIN(device);                                          \
        set(device, __func__, name, value);                     \
        return SUCCESS;                                         \
    }

SETTING(nvmlDeviceGetPersistenceMode, nvmlDeviceSetPersistenceMode, "persistence", 1)
SETTING(nvmlDeviceGetComputeMode, nvmlDeviceSetComputeMode, "compute_mode", 0)
SETTING(nvmlDeviceGetPowerManagementLimit, nvmlDeviceSetPowerManagementLimit, "power.set", 700000)

int nvmlDeviceGetApplicationsClock(device_t *device, unsigned int clock, unsigned int *megahertz)
{
    BEGIN(device);
    *megahertz = clock == 2 ? setting(device, "applications.memory", 2619)
                            : setting(device, "applications.graphics", 1980);
    return SUCCESS;
}

int nvmlDeviceSetApplicationsClocks(device_t *device, unsigned int memory, unsigned int graphics)
{
    BEGIN(device);
    set(device, __func__, "applications.memory", memory);
    set(device, __func__, "applications.graphics", graphics);
    return SUCCESS;
}

#define UNLOCK(function, name)                  \
    int function(device_t *device)              \
    {                                           \
        BEGIN(device);                          \
        set(device, __func__, name, 0);         \
        return SUCCESS;                         \
    }

UNLOCK(nvmlDeviceResetGpuLockedClocks, "locked.graphics")
UNLOCK(nvmlDeviceResetMemoryLockedClocks, "locked.memory")

int nvmlDeviceGetTemperature(device_t *device, unsigned int sensor, unsigned int *temperature)
{
    (void)sensor;
    BEGIN(device);
    *temperature = (unsigned int)value_of(device, "temperature", 55);
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(device_t *device, unsigned int clock, unsigned int *megahertz)
{
    BEGIN(device);
    *megahertz = (unsigned int)(clock == 1 ? value_of(device, "clock.sm", 1980)
                                           : value_of(device, "clock.memory", 2619));
    return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(device_t *device, unsigned int kind, unsigned int counter,
                                unsigned long long *count)
{
    BEGIN(device);
    /* Aggregate counts are 1; a reader that asks for the volatile ones gets nonsense. */
    *count = counter == 1 ? value_of(device, kind ? "ecc.uncorrected" : "ecc.corrected", kind) : 77;
    return SUCCESS;
}

static int running(const device_t *device, const char *name, unsigned int *count,
                   process_t *processes)
{
    char key[64], listed[4096], *rest = listed, *word;
    unsigned int room = *count, found = 0;
    key_of(key, sizeof key, device, name);
    if (!text(key, listed, sizeof listed)) {
        *count = 0;
        return SUCCESS;
    }
    while ((word = strtok_r(rest, " ", &rest))) {
        char *memory = strchr(word, ':') + 1;
        if (processes && found < room) {
            processes[found].pid = (unsigned int)strtoul(word, NULL, 10);
            processes[found].used = strcmp(memory, "n/a") ? strtoull(memory, NULL, 10) : ~0ULL;
            processes[found].gpu_instance = processes[found].compute_instance = ~0U;
        }
        ++found;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

#define RUNNING(function, name)                                                         \
    int function(device_t *device, unsigned int *count, process_t *processes)           \
    {                                                                                   \
        BEGIN(device);                                                                  \
        return running(device, name, count, processes);                                 \
    }

RUNNING(nvmlDeviceGetComputeRunningProcesses_v3, "compute")
RUNNING(nvmlDeviceGetComputeRunningProcesses_v2, "compute")
RUNNING(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics")
RUNNING(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics")

typedef struct {
    /* Of each card, whether its errors are wanted, and how many were there or delivered. */
    int registered[MAX_CARDS];
    int delivered[MAX_CARDS];
} event_set_t;

typedef struct {
    device_t *device;
    unsigned long long type, data;
    unsigned int gpu_instance, compute_instance;
} event_t;

/* The card's error of that number, or an empty text. */
static void xid_of(int card, int which, char *xid, size_t size)
{
    char key[64], listed[1024], *rest = listed, *word;
    *xid = '\0';
    snprintf(key, sizeof key, "card%d.xids", card);
    if (!text(key, listed, sizeof listed))
        return;
    while ((word = strtok_r(rest, " ", &rest)))
        if (which-- == 0)
            snprintf(xid, size, "%s", word);
}

int nvmlEventSetCreate(event_set_t **set)
{
    BEGIN(NULL);
    *set = calloc(1, sizeof **set);
    return SUCCESS;
}

int nvmlEventSetFree(event_set_t *set)
{
    BEGIN(NULL);
    free(set);
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(device_t *device, unsigned long long types, event_set_t *set)
{
    char xid[32];
    int *delivered = &set->delivered[device->card];
    BEGIN(device);
    if (types != 8)
        return NOT_SUPPORTED;
    set->registered[device->card] = 1;
    /* What happened before nobody is told. */
    for (*delivered = -1, *xid = '1'; *xid; xid_of(device->card, *delivered, xid, sizeof xid))
        ++*delivered;
    return SUCCESS;
}

int nvmlEventSetWait_v2(event_set_t *set, event_t *event, unsigned int timeout)
{
    char xid[32], *instance;
    int card;
    BEGIN(NULL);
    (void)timeout;
    for (card = 0; card < MAX_CARDS; ++card) {
        if (!set->registered[card])
            continue;
        xid_of(card, set->delivered[card], xid, sizeof xid);
        if (!*xid)
            continue;
        ++set->delivered[card];
        event->device = &cards[card];
        event->type = 8;
        event->data = strtoull(xid, &instance, 10);
        event->gpu_instance = *instance ? (unsigned int)strtoul(instance + 1, NULL, 10) : ~0U;
        event->compute_instance = ~0U;
        return SUCCESS;
    }
    return TIMEOUT;
}
