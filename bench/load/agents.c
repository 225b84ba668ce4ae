/* Links of agents that send samples, from when their greeting is over.

   The greeting needs signatures and is made by whoever starts this program, which inherits the open
   sockets as file descriptors from `--first-fd` on. Without `--rate` every link sends as much as
   its socket takes; with it, links may beat besides, as agents do. What counts is what reached Redis, by Redis's own count, since what a sender
   could write says only how large the buffers are. Prints one line of JSON a measured window. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "file.h"
#include "redis_counter.h"
#include "socket.h"
#include "websocket.h"

enum { BATCH = 512, SEND_BUFFER = 64 * 1024, REPEATS = 16, PONG_LIMIT = 125, CLOCK_BYTES = 8 };

struct link {
    struct websocket socket;
    size_t offset;   /* of the next byte to send, in what is under way */
    /* A pong that is owed, and waits for the end of a frame. */
    int owes_a_pong;
    int64_t beats_at;
    size_t pong_length;
    char pong[PONG_LIMIT];
};

static struct {
    int first_fd, links, redis_port, windows, pid;
    double rate, warm_up, seconds, beat_seconds;
    const char *message, *heartbeat;
    int text;
} options = {.links = 1, .windows = 1, .seconds = 1};

static struct link *links;
static struct bytes frame, flood, heartbeat;
static long long sent;

static void take(void *context, const struct frame *got) {
    struct link *link = context;
    if (got->opcode == OP_PING && got->length <= PONG_LIMIT) {
        link->owes_a_pong = 1;
        link->pong_length = got->length;
        memcpy(link->pong, got->payload, got->length);
    }
    if (got->opcode == OP_CLOSE)
        fail("The server closed a link: %.*s", got->length > 2 ? (int)got->length - 2 : 0,
             got->payload + 2);
}

/* Send from `bytes` until they are over or the socket is full. */
static void pump(struct link *link, struct bytes bytes) {
    for (;;) {
        if (link->owes_a_pong && link->offset == 0) {
            link->owes_a_pong = 0;
            websocket_send(&link->socket, OP_PONG, link->pong, link->pong_length);
        }
        ssize_t written =
            write(link->socket.fd, bytes.data + link->offset, bytes.length - link->offset);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0 && errno == EAGAIN) return;
        if (written < 0) fail_errno("A link broke");
        size_t before = link->offset / frame.length;
        link->offset += (size_t)written;
        sent += (long long)(link->offset / frame.length - before);
        if (link->offset == bytes.length) {
            link->offset = 0;
            return;
        }
    }
}

/* Say that the link is alive, in the gap between two frames. Its clock is the message's end. */
static void beat(struct link *link, int64_t now) {
    if (heartbeat.length == 0 || link->offset != 0 || now < link->beats_at) return;
    link->beats_at = now + (int64_t)(options.beat_seconds * 1e9);
    uint64_t clock = (uint64_t)(nanoseconds(CLOCK_REALTIME) / 1000000);
    for (int i = 0; i < CLOCK_BYTES; i++)
        heartbeat.data[heartbeat.length - 1 - (size_t)i] = (char)(clock >> 8 * i);
    websocket_send(&link->socket, OP_BINARY, heartbeat.data, heartbeat.length);
}

static void run(int poller, int64_t end) {
    static struct epoll_event events[BATCH];
    int64_t interval = options.rate > 0 ? (int64_t)(1e9 / options.rate) : 0;
    /* Links take turns, evenly spread over the interval. */
    int64_t next = now_ns();
    int turn = 0;
    while (now_ns() < end) {
        int64_t wait = 100000000;
        if (interval > 0) {
            int64_t step = interval / options.links;
            for (; next <= now_ns(); next += step, turn = (turn + 1) % options.links) {
                beat(&links[turn], next);
                pump(&links[turn], frame);
            }
            wait = next - now_ns();
        }
        struct timespec timeout = {0, wait < 0 ? 0 : wait > 100000000 ? 100000000 : wait};
        int count = epoll_pwait2(poller, events, BATCH, &timeout, NULL);
        for (int i = 0; i < count; i++) {
            struct link *link = events[i].data.ptr;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                if (!websocket_read(&link->socket, NULL, take, link))
                    fail("The server dropped a link.");
            if (interval == 0 && events[i].events & EPOLLOUT) pump(link, flood);
        }
    }
}

static void measure(int poller, int redis) {
    long long reached = redis_publishes(redis), before = sent;
    int64_t cpu = cpu_ns(options.pid), own = nanoseconds(CLOCK_PROCESS_CPUTIME_ID), begun = now_ns();
    run(poller, begun + (int64_t)(options.seconds * 1e9));
    double seconds = (double)(now_ns() - begun) / 1e9;
    cpu = cpu_ns(options.pid) - cpu;
    own = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - own;
    reached = redis_publishes(redis) - reached;
    printf(
        "{\"seconds\":%.6f,\"sent\":%lld,\"stored\":%lld,\"server_cpu\":%.6f,\"client_cpu\":%.6f,"
        "\"resident_kib\":%ld}\n",
        seconds, sent - before, reached, (double)cpu / 1e9, (double)own / 1e9,
        resident_kib(options.pid));
    fflush(stdout);
}

static void adopt_all(int poller) {
    links = allocate((size_t)options.links, sizeof *links);
    for (int i = 0; i < options.links; i++) {
        int fd = options.first_fd + i, size = SEND_BUFFER;
        websocket_adopt(&links[i].socket, fd);
        links[i].beats_at = now_ns() + (int64_t)(options.beat_seconds * 1e9 * i / options.links);
        links[i].socket.hands_pings = 1;
        if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) fail_errno("fcntl");
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        struct epoll_event event = {
            .events = EPOLLIN | (options.rate > 0 ? 0 : EPOLLOUT), .data.ptr = &links[i]};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) != 0) fail_errno("epoll_ctl");
    }
}

static void parse(int count, char **arguments) {
    static const struct option known[] = {
        {"first-fd", 1, 0, 'f'},   {"links", 1, 0, 'l'},   {"redis-port", 1, 0, 'r'},
        {"message", 1, 0, 'm'},    {"rate", 1, 0, 'R'},    {"warm-up", 1, 0, 'w'},
        {"seconds", 1, 0, 't'},    {"windows", 1, 0, 'n'}, {"pid", 1, 0, 'd'},
        {"text", 0, 0, 'T'},       {"heartbeat", 1, 0, 'b'}, {"beat-seconds", 1, 0, 'B'},
        {0},
    };
    int key;
    while ((key = getopt_long(count, arguments, "", known, NULL)) != -1) switch (key) {
            case 'f': options.first_fd = atoi(optarg); break;
            case 'l': options.links = atoi(optarg); break;
            case 'r': options.redis_port = atoi(optarg); break;
            case 'm': options.message = optarg; break;
            case 'R': options.rate = atof(optarg); break;
            case 'w': options.warm_up = atof(optarg); break;
            case 't': options.seconds = atof(optarg); break;
            case 'n': options.windows = atoi(optarg); break;
            case 'd': options.pid = atoi(optarg); break;
            case 'T': options.text = 1; break;
            case 'b': options.heartbeat = optarg; break;
            case 'B': options.beat_seconds = atof(optarg); break;
            default: exit(2);
        }
    if (!options.message) fail("Expected --message.");
}

int main(int count, char **arguments) {
    parse(count, arguments);
    struct bytes message = read_file(options.message);
    frame.data = allocate(message.length + FRAME_OVERHEAD, 1);
    frame.length = frame_encode(
        frame.data, options.text ? OP_TEXT : OP_BINARY, message.data, message.length);
    flood.length = frame.length * REPEATS;
    flood.data = allocate(flood.length, 1);
    for (int i = 0; i < REPEATS; i++)
        memcpy(flood.data + (size_t)i * frame.length, frame.data, frame.length);
    if (options.heartbeat) heartbeat = read_file(options.heartbeat);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) fail_errno("epoll_create1");
    int redis = dial(options.redis_port);
    adopt_all(poller);
    run(poller, now_ns() + (int64_t)(options.warm_up * 1e9));
    for (int i = 0; i < options.windows; i++) measure(poller, redis);
    return 0;
}
