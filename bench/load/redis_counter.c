#define _GNU_SOURCE
#include "redis_counter.h"

#include <poll.h>
#include <unistd.h>

#include "fail.h"
#include "socket.h"

enum { ANSWER_LIMIT = 64 * 1024 };

long long redis_publishes(int fd) {
    static const char command[] = "*2\r\n$4\r\nINFO\r\n$12\r\ncommandstats\r\n";
    static const char name[] = "cmdstat_publish:calls=";
    static char answer[ANSWER_LIMIT];
    write_all(fd, command, sizeof command - 1);
    size_t filled = 0, expected = 0;
    do {
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        if (poll(&readable, 1, 5000) <= 0) fail("Redis did not answer INFO within 5 s.");
        ssize_t got = read(fd, answer + filled, sizeof answer - 1 - filled);
        if (got <= 0) fail("Redis closed the connection.");
        filled += (size_t)got;
        answer[filled] = 0;
        if (answer[0] != '$') fail("Redis: %s", answer);
        char *body = strstr(answer, "\r\n");
        /* A bulk string: $<length>, the bytes, and a line end after each of the two. */
        if (body != NULL) expected = (size_t)(body + 2 - answer) + strtoul(answer + 1, NULL, 10) + 2;
    } while (expected == 0 || filled < expected);
    char *found = strstr(answer, name);
    return found == NULL ? 0 : strtoll(found + sizeof name - 1, NULL, 10);
}
