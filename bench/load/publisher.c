#define _GNU_SOURCE
#include "publisher.h"

#include <time.h>
#include <unistd.h>

#include "socket.h"

enum { STAMP_OFFSET = 8, STAMP_SIZE = 8 };

void publisher_open(
    struct publisher *publisher, int port, const char *channel, struct bytes sample) {
    if (sample.length < STAMP_OFFSET + STAMP_SIZE) fail("The sample is too short to be one.");
    size_t capacity = sample.length + strlen(channel) + 128;
    char *command = allocate(capacity, 1);
    int head = snprintf(
        command, capacity, "*3\r\n$7\r\nPUBLISH\r\n$%zu\r\n%s\r\n$%zu\r\n", strlen(channel), channel,
        sample.length);
    memcpy(command + head, sample.data, sample.length);
    memcpy(command + head + sample.length, "\r\n", 2);
    publisher->fd = dial(port);
    publisher->command = (struct bytes){command, (size_t)head + sample.length + 2};
    publisher->stamp = command + head + STAMP_OFFSET;
    publisher->base = (int64_t)time(NULL) * 1000;
}

void publisher_send(struct publisher *publisher, int64_t number) {
    uint64_t time = (uint64_t)(publisher->base + number);
    for (int i = 0; i < STAMP_SIZE; i++) publisher->stamp[i] = (char)(time >> (56 - 8 * i));
    write_all(publisher->fd, publisher->command.data, publisher->command.length);
}

void publisher_drain(struct publisher *publisher) {
    char answers[4096];
    ssize_t got;
    while ((got = read(publisher->fd, answers, sizeof answers)) > 0)
        if (answers[0] == '-') fail("Redis: %.*s", (int)got, answers);
    if (got == 0) fail("Redis closed the connection.");
}
