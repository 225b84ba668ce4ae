/* Connections that POST the same request over and over and count the answers.

   Each connection has one request under way. Prints one line of JSON a measured window. */
#define _GNU_SOURCE
#include <getopt.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clock.h"
#include "file.h"
#include "latencies.h"
#include "socket.h"

enum { BATCH = 64, CAPACITY = 4 * 1024 * 1024 };

struct connection {
    int fd;
    char *buffer;
    size_t filled, expected; /* 0: its head has not come yet */
    int64_t asked_at;
};

static struct {
    int port, connections, windows, pid;
    double warm_up, seconds;
    const char *body, *path, *token;
} options = {.connections = 1, .windows = 1, .seconds = 1, .path = "/graphql"};

static struct bytes request;
static struct connection *connections;
static struct latencies latencies;
static long long answered, answer_bytes;

static void ask(struct connection *connection) {
    connection->filled = connection->expected = 0;
    connection->asked_at = now_ns();
    write_all(connection->fd, request.data, request.length);
}

/* The size of the whole answer, once its head is there. */
static size_t whole(struct connection *connection) {
    char *end = memmem(connection->buffer, connection->filled, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    *end = 0;
    if (strncmp(connection->buffer, "HTTP/1.1 200", 12) != 0)
        fail("Expected 200, got: %s\n%.*s", connection->buffer,
             (int)(connection->filled - (size_t)(end - connection->buffer) - 4), end + 4);
    char *length = strcasestr(connection->buffer, "content-length:");
    if (length == NULL) fail("Expected a content-length, got: %s", connection->buffer);
    return (size_t)(end + 4 - connection->buffer) + strtoul(length + 15, NULL, 10);
}

static void take(struct connection *connection) {
    ssize_t got = read(
        connection->fd, connection->buffer + connection->filled, CAPACITY - connection->filled);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) fail("The server closed a connection.");
    connection->filled += (size_t)got;
    if (connection->expected == 0) connection->expected = whole(connection);
    if (connection->expected > CAPACITY) fail("An answer of %zu bytes.", connection->expected);
    if (connection->expected == 0 || connection->filled < connection->expected) return;
    /* An error in the data is no answer that counts. */
    if (answered == 0 && memmem(connection->buffer, connection->filled, "\"errors\"", 8) != NULL)
        fail("The server answers with errors.");
    answered++;
    answer_bytes += (long long)connection->filled;
    latencies_add(&latencies, (double)(now_ns() - connection->asked_at) / 1e6);
    ask(connection);
}

static void run(int poller, int64_t end) {
    struct epoll_event events[BATCH];
    while (now_ns() < end) {
        int count = epoll_wait(poller, events, BATCH, 100);
        for (int i = 0; i < count; i++) take(events[i].data.ptr);
    }
}

static void measure(int poller) {
    answered = answer_bytes = 0;
    latencies.count = 0;
    int64_t cpu = cpu_ns(options.pid), begun = now_ns();
    run(poller, begun + (int64_t)(options.seconds * 1e9));
    double seconds = (double)(now_ns() - begun) / 1e9;
    cpu = cpu_ns(options.pid) - cpu;
    latencies_sort(&latencies);
    printf(
        "{\"seconds\":%.6f,\"answered\":%lld,\"bytes\":%lld,\"server_cpu\":%.6f,\"p50_ms\":%.3f,"
        "\"p99_ms\":%.3f}\n",
        seconds, answered, answer_bytes, (double)cpu / 1e9, latencies_at(&latencies, 0.5),
        latencies_at(&latencies, 0.99));
    fflush(stdout);
}

static void parse(int count, char **arguments) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'},    {"path", 1, 0, 'P'},    {"connections", 1, 0, 'c'},
        {"body", 1, 0, 'b'},    {"token", 1, 0, 'k'},   {"warm-up", 1, 0, 'w'},
        {"seconds", 1, 0, 't'}, {"windows", 1, 0, 'n'}, {"pid", 1, 0, 'd'},
        {0},
    };
    int key;
    while ((key = getopt_long(count, arguments, "", known, NULL)) != -1) switch (key) {
            case 'p': options.port = atoi(optarg); break;
            case 'P': options.path = optarg; break;
            case 'c': options.connections = atoi(optarg); break;
            case 'b': options.body = optarg; break;
            case 'k': options.token = optarg; break;
            case 'w': options.warm_up = atof(optarg); break;
            case 't': options.seconds = atof(optarg); break;
            case 'n': options.windows = atoi(optarg); break;
            case 'd': options.pid = atoi(optarg); break;
            default: exit(2);
        }
    if (!options.body) fail("Expected --body.");
}

static void compose(void) {
    struct bytes body = read_file(options.body);
    size_t capacity = body.length + 1024;
    request.data = allocate(capacity, 1);
    int head = snprintf(
        request.data, capacity,
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
        "Accept: application/json\r\n%s%s%sContent-Length: %zu\r\n\r\n",
        options.path, options.port, options.token ? "Authorization: Bearer " : "",
        options.token ? options.token : "", options.token ? "\r\n" : "", body.length);
    memcpy(request.data + head, body.data, body.length);
    request.length = (size_t)head + body.length;
}

int main(int count, char **arguments) {
    parse(count, arguments);
    compose();
    int poller = epoll_create1(EPOLL_CLOEXEC);
    connections = allocate((size_t)options.connections, sizeof *connections);
    for (int i = 0; i < options.connections; i++) {
        connections[i].fd = dial(options.port);
        connections[i].buffer = allocate(CAPACITY, 1);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &connections[i]};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, connections[i].fd, &event) != 0) fail_errno("epoll");
        ask(&connections[i]);
    }
    run(poller, now_ns() + (int64_t)(options.warm_up * 1e9));
    for (int i = 0; i < options.windows; i++) measure(poller);
    return 0;
}
