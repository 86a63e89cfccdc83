/* The few bytes of the PostgreSQL protocol (v3) that the load client and the fake server share.
 *
 * A typed message is: one byte tag, an int32 length that counts itself, a body.  All numbers are big-endian.
 */
#ifndef SWITCHBOARD_PGWIRE_H
#define SWITCHBOARD_PGWIRE_H

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { PROTOCOL_3 = 196608, CANCEL_REQUEST = 80877102, SSL_REQUEST = 80877103, GSSENC_REQUEST = 80877104 };

/* Bytes under construction; grows, never shrinks. */
struct bytes { uint8_t *at; size_t len, room; };

static inline void put(struct bytes *b, const void *data, size_t n) {
    if (b->len + n > b->room) {
        b->room = (b->len + n) * 2;
        b->at = realloc(b->at, b->room);
        if (!b->at) abort();
    }
    memcpy(b->at + b->len, data, n);
    b->len += n;
}

static inline void put16(struct bytes *b, int v) { uint16_t n = htons((uint16_t)v); put(b, &n, 2); }
static inline void put32(struct bytes *b, uint32_t v) { v = htonl(v); put(b, &v, 4); }
static inline void puts0(struct bytes *b, const char *text) { put(b, text, strlen(text) + 1); }
static inline uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return ntohl(v); }

/* Begin a message; `finish` fills in its length.  Tag 0: the untyped startup packet. */
static inline size_t begin(struct bytes *b, char tag) {
    if (tag) put(b, &tag, 1);
    size_t mark = b->len;
    put32(b, 0);
    return mark;
}

static inline void finish(struct bytes *b, size_t mark) {
    uint32_t size = htonl((uint32_t)(b->len - mark));
    memcpy(b->at + mark, &size, 4);
}

static inline void empty(struct bytes *b, char tag) { finish(b, begin(b, tag)); }

static inline uint64_t nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Thousands of sockets need more descriptors than the soft limit allows. */
static inline void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

#endif
