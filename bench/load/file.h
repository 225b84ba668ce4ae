/* A whole file in memory. */
#ifndef BENCH_FILE_H
#define BENCH_FILE_H

#include "fail.h"

struct bytes {
    char *data;
    size_t length;
};

/* The contents of `path`, with a zero byte after their end. */
static inline struct bytes read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) fail_errno(path);
    if (fseek(file, 0, SEEK_END) != 0) fail_errno(path);
    long length = ftell(file);
    rewind(file);
    struct bytes bytes = {allocate((size_t)length + 1, 1), (size_t)length};
    if (fread(bytes.data, 1, bytes.length, file) != bytes.length) fail_errno(path);
    fclose(file);
    return bytes;
}

#endif
