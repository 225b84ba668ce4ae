#define _GNU_SOURCE
#include "websocket.h"

#include <unistd.h>

#include "fail.h"
#include "socket.h"

enum { FIRST_CAPACITY = 16 * 1024, HANDSHAKE_LIMIT = 4096 };

void websocket_adopt(struct websocket *socket, int fd) {
    *socket = (struct websocket){.fd = fd, .open = 1, .capacity = FIRST_CAPACITY};
    socket->buffer = allocate(socket->capacity, 1);
}

void websocket_dial(struct websocket *socket, int port, const char *path, const char *subprotocol) {
    char request[1024];
    int length = snprintf(
        request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: cmVtb3RlZ3B1LWJlbmNobQ==\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: %s\r\n\r\n",
        path, port, subprotocol);
    websocket_adopt(socket, dial(port));
    socket->open = 0;
    write_all(socket->fd, request, (size_t)length);
}

size_t frame_encode(char *out, int opcode, const void *payload, size_t length) {
    unsigned char *head = (unsigned char *)out;
    size_t size = 2;
    head[0] = (unsigned char)(0x80 | opcode);
    if (length < 126) {
        head[1] = (unsigned char)(0x80 | length);
    } else if (length < 65536) {
        head[1] = 0x80 | 126;
        head[2] = (unsigned char)(length >> 8);
        head[3] = (unsigned char)length;
        size = 4;
    } else {
        head[1] = 0x80 | 127;
        for (int i = 0; i < 8; i++) head[2 + i] = (unsigned char)((uint64_t)length >> (56 - 8 * i));
        size = 10;
    }
    /* A mask of zeros is as valid as any, and leaves the payload as it is. */
    memset(out + size, 0, 4);
    memcpy(out + size + 4, payload, length);
    return size + 4 + length;
}

void websocket_send(struct websocket *socket, int opcode, const void *payload, size_t length) {
    char *frame = allocate(length + FRAME_OVERHEAD, 1);
    write_all(socket->fd, frame, frame_encode(frame, opcode, payload, length));
    free(frame);
}

/* The frame at `data`, and its whole size; 0 when more bytes are needed. */
static size_t frame_decode(const char *data, size_t available, struct frame *frame) {
    const unsigned char *head = (const unsigned char *)data;
    if (available < 2) return 0;
    size_t size = 2;
    uint64_t length = head[1] & 0x7f;
    if (length == 126) {
        if (available < 4) return 0;
        length = (uint64_t)head[2] << 8 | head[3];
        size = 4;
    } else if (length == 127) {
        if (available < 10) return 0;
        length = 0;
        for (int i = 0; i < 8; i++) length = length << 8 | head[2 + i];
        size = 10;
    }
    if (available < size + length) {
        frame->length = length;
        return 0;
    }
    *frame = (struct frame){head[0] & 0x0f, data + size, length};
    return size + length;
}

static size_t take_handshake(struct websocket *socket) {
    char *end = memmem(socket->buffer, socket->filled, "\r\n\r\n", 4);
    if (end == NULL) {
        if (socket->filled > HANDSHAKE_LIMIT) fail("The answer to the handshake does not end.");
        return 0;
    }
    if (memmem(socket->buffer, socket->filled, " 101 ", 5) == NULL)
        fail("Expected 101, got: %.*s", (int)(end - socket->buffer), socket->buffer);
    socket->open = 1;
    return (size_t)(end + 4 - socket->buffer);
}

int websocket_read(
    struct websocket *socket, void (*opened)(void *context),
    void (*each)(void *context, const struct frame *frame), void *context) {
    for (;;) {
        ssize_t got =
            read(socket->fd, socket->buffer + socket->filled, socket->capacity - socket->filled);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) return 1;
        if (got <= 0) return 0;
        int full = (size_t)got == socket->capacity - socket->filled;
        socket->filled += (size_t)got;

        size_t taken = 0;
        if (!socket->open) {
            taken = take_handshake(socket);
            if (!socket->open) continue;
            if (opened != NULL) opened(context);
        }
        struct frame frame = {0};
        size_t size;
        while ((size = frame_decode(socket->buffer + taken, socket->filled - taken, &frame)) > 0) {
            taken += size;
            if (frame.opcode == OP_PING && !socket->hands_pings)
                websocket_send(socket, OP_PONG, frame.payload, frame.length);
            else
                each(context, &frame);
            frame.length = 0;
        }
        socket->filled -= taken;
        memmove(socket->buffer, socket->buffer + taken, socket->filled);
        if (frame.length + FRAME_OVERHEAD > socket->capacity) {
            socket->capacity = frame.length + FRAME_OVERHEAD;
            socket->buffer = realloc(socket->buffer, socket->capacity);
            if (socket->buffer == NULL) fail("Out of memory for a frame.");
        }
        if (!full) return 1;
    }
}
