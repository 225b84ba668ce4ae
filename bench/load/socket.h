/* TCP on loopback. */
#ifndef BENCH_SOCKET_H
#define BENCH_SOCKET_H

#include <stddef.h>

/* A connected non-blocking socket to 127.0.0.1:`port`. */
int dial(int port);

/* Write all of it, waiting where the kernel has no room. */
void write_all(int fd, const void *data, size_t length);

#endif
