/* How many samples reached Redis, by its own count. */
#ifndef BENCH_REDIS_COUNTER_H
#define BENCH_REDIS_COUNTER_H

/* Calls of PUBLISH since the server at 127.0.0.1:`port` was started. `fd` is `dial`ed to it. */
long long redis_publishes(int fd);

#endif
