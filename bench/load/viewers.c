/* Subscribers of graphql-transport-ws that count what they get, and the events they get it from.

   Every event carries its number in `sampledAt`, so that a delivery is known to belong to it, and
   its time from PUBLISH to the viewer with it. As fast as possible means that the next is published
   as soon as half of the viewers got the newest one: the server always has work, and never so much
   that it would have to queue or drop. Prints one line of JSON a measured window. */
#define _GNU_SOURCE
#include <getopt.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clock.h"
#include "file.h"
#include "latencies.h"
#include "publisher.h"
#include "websocket.h"

enum { RING = 1 << 16, DAY_MS = 86400000, PROBE_NS = 200000000, BATCH = 512 };

struct viewer {
    struct websocket socket;
    int live;        /* its subscription was sent */
    int64_t last;    /* number of the newest event it got; -1 before the first */
};

static struct {
    int port, viewers, redis_port, windows, pid, idle;
    double rate, warm_up, seconds, patience;
    const char *path, *channel, *init, *subscribe, *sample;
} options = {.viewers = 1, .windows = 1, .seconds = 1, .patience = 60, .path = "/graphql"};

static struct bytes init_message, subscribe_message;
static struct viewer *viewers;
static struct publisher publisher;
static struct latencies latencies;
static int64_t published;            /* number of the next event */
static int64_t published_at[RING];
static int passed[RING];             /* viewers that got the event or a newer one */
static int acknowledged, watching;
static int64_t delivered, delivered_bytes, skipped;
static int measuring;

static void send_text(struct viewer *viewer, struct bytes text) {
    websocket_send(&viewer->socket, OP_TEXT, text.data, text.length);
}

static void opened(void *context) { send_text(context, init_message); }

/* The event's number from its `sampledAt`; -1 when the message has none. */
static int64_t event_number(const char *text, size_t length) {
    static const char name[] = "\"sampledAt\":\"";
    const char *found = memmem(text, length, name, sizeof name - 1);
    if (found == NULL || text + length - found < (ptrdiff_t)sizeof name + 24) return -1;
    const char *clock = found + sizeof name - 1 + sizeof "2026-01-31T" - 1;
    int64_t of_day = ((clock[0] - '0') * 10 + clock[1] - '0') * 3600000LL +
                     ((clock[3] - '0') * 10 + clock[4] - '0') * 60000LL +
                     ((clock[6] - '0') * 10 + clock[7] - '0') * 1000LL + (clock[9] - '0') * 100 +
                     (clock[10] - '0') * 10 + clock[11] - '0';
    return (of_day - publisher.base % DAY_MS + DAY_MS) % DAY_MS;
}

static void deliver(struct viewer *viewer, int64_t number, size_t length) {
    if (number >= published || number <= viewer->last) return;
    if (viewer->last < 0) {
        watching++;
        viewer->last = number - 1;
    }
    if (number - viewer->last >= RING) fail("A viewer fell behind by %d events.", RING);
    for (int64_t i = viewer->last + 1; i <= number; i++) passed[i % RING]++;
    if (measuring) {
        skipped += number - viewer->last - 1;
        delivered++;
        delivered_bytes += (int64_t)length;
        latencies_add(&latencies, (double)(now_ns() - published_at[number % RING]) / 1e6);
    }
    viewer->last = number;
}

static void take(void *context, const struct frame *frame) {
    struct viewer *viewer = context;
    if (frame->opcode != OP_TEXT)
        fail("The server ended the socket or sent bytes: opcode %d, %.*s", frame->opcode,
             frame->length > 2 ? (int)frame->length - 2 : 0, frame->payload + 2);
    int64_t number = event_number(frame->payload, frame->length);
    if (number >= 0) {
        deliver(viewer, number, frame->length);
    } else if (memmem(frame->payload, frame->length, "\"connection_ack\"", 16) != NULL) {
        acknowledged++;
        send_text(viewer, subscribe_message);
        viewer->live = 1;
    } else if (memmem(frame->payload, frame->length, "\"ping\"", 6) == NULL) {
        fail("Did not expect this message: %.*s", (int)frame->length, frame->payload);
    }
}

static void publish(void) {
    passed[published % RING] = 0;
    published_at[published % RING] = now_ns();
    publisher_send(&publisher, published++);
}

/* Wait up to `timeout_ns` for messages and take them. */
static void turn(int poller, int64_t timeout_ns) {
    static struct epoll_event events[BATCH];
    struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    int count = epoll_pwait2(poller, events, BATCH, &timeout, NULL);
    for (int i = 0; i < count; i++) {
        struct viewer *viewer = events[i].data.ptr;
        if (viewer == NULL)
            publisher_drain(&publisher);
        else if (!websocket_read(&viewer->socket, opened, take, viewer))
            fail("The server dropped a viewer.");
    }
}

/* Run until `end`, publishing as fast or as often as was asked for. */
static void run(int poller, int64_t end) {
    int64_t interval = options.rate > 0 ? (int64_t)(1e9 / options.rate) : 0;
    int64_t next = now_ns();
    for (int64_t now = next; now < end; now = now_ns()) {
        if (interval > 0) {
            if (now >= next) {
                publish();
                next += interval;
            }
            turn(poller, next < end ? next - now : end - now);
            continue;
        }
        if (passed[(published - 1) % RING] * 2 >= options.viewers) {
            publish();
            publisher_drain(&publisher);
        } else {
            turn(poller, 100000000);
        }
    }
}

/* Let what is still under way arrive. */
static void settle(int poller) {
    int64_t end = now_ns() + 5000000000;
    while (published > 0 && passed[(published - 1) % RING] < options.viewers && now_ns() < end)
        turn(poller, 10000000);
}

static void measure(int poller) {
    delivered = delivered_bytes = skipped = 0;
    latencies.count = 0;
    int64_t events = published;
    int64_t cpu = cpu_ns(options.pid), own = nanoseconds(CLOCK_PROCESS_CPUTIME_ID), begun = now_ns();
    measuring = 1;
    run(poller, begun + (int64_t)(options.seconds * 1e9));
    if (options.rate > 0) settle(poller);
    measuring = 0;
    double seconds = (double)(now_ns() - begun) / 1e9;
    cpu = cpu_ns(options.pid) - cpu;
    own = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - own;
    latencies_sort(&latencies);
    printf(
        "{\"seconds\":%.6f,\"events\":%lld,\"delivered\":%lld,\"bytes\":%lld,\"skipped\":%lld,"
        "\"server_cpu\":%.6f,\"client_cpu\":%.6f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,"
        "\"resident_kib\":%ld}\n",
        seconds, (long long)(published - events), (long long)delivered, (long long)delivered_bytes,
        (long long)skipped, (double)cpu / 1e9, (double)own / 1e9, latencies_at(&latencies, 0.5),
        latencies_at(&latencies, 0.99), resident_kib(options.pid));
    fflush(stdout);
}

static void connect_all(int poller) {
    viewers = allocate((size_t)options.viewers, sizeof *viewers);
    for (int i = 0; i < options.viewers; i++) {
        viewers[i].last = -1;
        websocket_dial(&viewers[i].socket, options.port, options.path, "graphql-transport-ws");
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &viewers[i]};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, viewers[i].socket.fd, &event) != 0)
            fail_errno("epoll_ctl");
        turn(poller, 0);
    }
    int64_t end = now_ns() + (int64_t)(options.patience * 1e9);
    while (acknowledged < options.viewers) {
        if (now_ns() > end)
            fail("Only %d of %d viewers were let in.", acknowledged, options.viewers);
        turn(poller, 100000000);
    }
}

/* Publish until every viewer has got something: the next event when those who are there already
   got the one before, so that no server begins with a queue. */
static void await_all(int poller) {
    int64_t end = now_ns() + (int64_t)(options.patience * 1e9);
    while (watching < options.viewers) {
        if (now_ns() > end) fail("Only %d of %d viewers get events.", watching, options.viewers);
        int64_t number = published;
        publish();
        int64_t begun = now_ns();
        while (now_ns() < begun + PROBE_NS || (passed[number % RING] < watching && now_ns() < end)) {
            turn(poller, PROBE_NS / 4);
            if (watching == options.viewers) break;
        }
    }
    settle(poller);
    /* Events that somebody was not yet there for are nobody's to wait for. */
    for (int i = 0; i < RING; i++) passed[i] = options.viewers;
}

static void parse(int count, char **arguments) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'},   {"path", 1, 0, 'P'},     {"viewers", 1, 0, 'v'},
        {"init", 1, 0, 'i'},   {"subscribe", 1, 0, 's'}, {"redis-port", 1, 0, 'r'},
        {"channel", 1, 0, 'c'}, {"sample", 1, 0, 'S'},   {"rate", 1, 0, 'R'},
        {"warm-up", 1, 0, 'w'},  {"seconds", 1, 0, 't'},
        {"windows", 1, 0, 'n'}, {"pid", 1, 0, 'd'},      {"patience", 1, 0, 'e'},
        {"idle", 0, 0, 'I'},   {0},
    };
    int key;
    while ((key = getopt_long(count, arguments, "", known, NULL)) != -1) switch (key) {
            case 'p': options.port = atoi(optarg); break;
            case 'P': options.path = optarg; break;
            case 'v': options.viewers = atoi(optarg); break;
            case 'i': options.init = optarg; break;
            case 's': options.subscribe = optarg; break;
            case 'r': options.redis_port = atoi(optarg); break;
            case 'c': options.channel = optarg; break;
            case 'S': options.sample = optarg; break;
            case 'R': options.rate = atof(optarg); break;
            case 'w': options.warm_up = atof(optarg); break;
            case 't': options.seconds = atof(optarg); break;
            case 'n': options.windows = atoi(optarg); break;
            case 'd': options.pid = atoi(optarg); break;
            case 'e': options.patience = atof(optarg); break;
            case 'I': options.idle = 1; break;
            default: exit(2);
        }
    if (!options.init || !options.subscribe || !options.sample || !options.channel)
        fail("Expected --init, --subscribe, --sample and --channel.");
}

int main(int count, char **arguments) {
    parse(count, arguments);
    init_message = read_file(options.init);
    subscribe_message = read_file(options.subscribe);
    publisher_open(&publisher, options.redis_port, options.channel, read_file(options.sample));
    int poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, publisher.fd, &event) != 0)
        fail_errno("epoll");
    connect_all(poller);
    await_all(poller);
    if (options.idle) {
        /* All are there and nothing happens: the server's memory can be read. */
        printf("{\"watching\":%d}\n", watching);
        fflush(stdout);
        for (char byte; read(STDIN_FILENO, &byte, 1) > 0;) continue;
        return 0;
    }
    run(poller, now_ns() + (int64_t)(options.warm_up * 1e9));
    for (int i = 0; i < options.windows; i++) measure(poller);
    return 0;
}
