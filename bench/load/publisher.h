/* Publishes samples to Redis, each with a number in place of its time. */
#ifndef BENCH_PUBLISHER_H
#define BENCH_PUBLISHER_H

#include <stdint.h>

#include "file.h"

struct publisher {
    int fd;
    struct bytes command; /* the whole PUBLISH */
    char *stamp;          /* where in it the time stands: 8 bytes, big-endian */
    int64_t base;         /* the time of event 0, in milliseconds since the Unix epoch */
};

/* `sample` is a packed sample: epoch and time in 8 bytes each, then the agent's message. */
void publisher_open(struct publisher *publisher, int port, const char *channel, struct bytes sample);

/* Publish event `number`: its time is `base` + `number` milliseconds, which viewers get back. */
void publisher_send(struct publisher *publisher, int64_t number);

/* Take Redis's answers away, so that its socket never fills. */
void publisher_drain(struct publisher *publisher);

#endif
