/* The client's half of RFC 6455, as much as a load client needs. */
#ifndef BENCH_WEBSOCKET_H
#define BENCH_WEBSOCKET_H

#include <stddef.h>
#include <stdint.h>

enum { OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };

/* Bytes that one frame may need at most beside its payload. */
enum { FRAME_OVERHEAD = 14 };

struct websocket {
    int fd;
    int open;        /* the handshake is over */
    int hands_pings; /* to `each`, instead of answering them itself */
    char *buffer;
    size_t capacity, filled;
};

struct frame {
    int opcode;
    const char *payload;
    size_t length;
};

/* Connect and send the handshake; its answer is taken by `websocket_read`. */
void websocket_dial(struct websocket *socket, int port, const char *path, const char *subprotocol);

/* Take over a socket whose handshake is over. */
void websocket_adopt(struct websocket *socket, int fd);

/* Write a frame with a zero mask into `out`, which has `length` + FRAME_OVERHEAD bytes; its size. */
size_t frame_encode(char *out, int opcode, const void *payload, size_t length);

void websocket_send(struct websocket *socket, int opcode, const void *payload, size_t length);

/* Read what is there and give every whole frame to `each`. Pings are answered here, unless the
   socket hands them on. Returns 0 when the other end is gone. */
int websocket_read(
    struct websocket *socket, void (*opened)(void *context),
    void (*each)(void *context, const struct frame *frame), void *context);

#endif
