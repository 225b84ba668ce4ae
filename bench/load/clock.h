/* Time, and the processor time that another process used. */
#ifndef BENCH_CLOCK_H
#define BENCH_CLOCK_H

#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <time.h>

static inline int64_t nanoseconds(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time) != 0) return 0;
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static inline int64_t now_ns(void) { return nanoseconds(CLOCK_MONOTONIC); }

/* Nanoseconds of all threads of `pid`; 0 when there is no such process. */
static inline int64_t cpu_ns(pid_t pid) {
    clockid_t clock;
    if (pid <= 0 || clock_getcpuclockid(pid, &clock) != 0) return 0;
    return nanoseconds(clock);
}

/* Resident memory of `pid` in KiB; 0 when it cannot be read. */
static inline long resident_kib(pid_t pid) {
    char name[64], line[256];
    long kib = 0;
    snprintf(name, sizeof name, "/proc/%d/status", (int)pid);
    FILE *file = fopen(name, "r");
    if (file == NULL) return 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "VmRSS: %ld", &kib) == 1) break;
    fclose(file);
    return kib;
}

#endif
