/* Durations and their percentiles. */
#ifndef BENCH_LATENCIES_H
#define BENCH_LATENCIES_H

#include "fail.h"

struct latencies {
    float *values;
    size_t count, capacity;
};

static inline void latencies_add(struct latencies *latencies, double milliseconds) {
    if (latencies->count == latencies->capacity) {
        latencies->capacity = latencies->capacity ? latencies->capacity * 2 : 1 << 16;
        latencies->values = realloc(latencies->values, latencies->capacity * sizeof(float));
        if (latencies->values == NULL) fail("Out of memory for latencies.");
    }
    latencies->values[latencies->count++] = (float)milliseconds;
}

static inline int latencies_compare(const void *left, const void *right) {
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static inline void latencies_sort(struct latencies *latencies) {
    if (latencies->count > 0)
        qsort(latencies->values, latencies->count, sizeof(float), latencies_compare);
}

/* Of sorted values, the one below which the share `quantile` lies; -1 when there is none. */
static inline double latencies_at(const struct latencies *latencies, double quantile) {
    if (latencies->count == 0) return -1;
    return latencies->values[(size_t)(quantile * (double)(latencies->count - 1))];
}

#endif
