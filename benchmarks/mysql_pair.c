/* A MySQL server and MySQL clients that do no work: what is left is the cost of the proxy between them.
 *
 *   mysql_pair serve                                     prints its port, lets everybody in, answers each query with one row
 *   mysql_pair load --port N [--clients N] [--seconds S] [--warmup S]
 *
 * Clients log in without a proof (the proxy trusts them), then each asks again as soon as it has its answer.  `load` prints
 * {"per_second", "queries", "seconds"}.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, CHUNK = 65536 };

static const uint8_t OK[] = "\7\0\0\1\0\0\0\2\0\0";            /* and one NUL: eleven bytes */
static uint8_t answer[128];
static int answer_len;
static const char QUERY[] = "SELECT v FROM t WHERE id = 12345";

static void die(const char *what) { perror(what); exit(1); }

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec; }

static void packet(const void *payload, int len, int seq) {
    uint8_t *at = answer + answer_len;
    at[0] = (uint8_t)len; at[1] = at[2] = 0; at[3] = (uint8_t)seq;
    memcpy(at + 4, payload, (size_t)len);
    answer_len += 4 + len;
}

static void prepare(void) {
    packet("\1", 1, 1);
    packet("\3def\4test\1t\1t\1v\1v\x0c\x2d\0\x28\0\0\0\xfd\0\0\0\0\0", 32, 2);
    packet("\6abcdef", 7, 3);
    packet("\xfe\0\0\2\0\0\0", 7, 4);
}

static void send_all(int fd, const void *data, size_t len) { if (send(fd, data, len, MSG_NOSIGNAL) != (ssize_t)len) die("send"); }

static void greet(int fd, uint32_t thread) {
    uint8_t g[128]; size_t n = 4;
    uint32_t flags = 0x01 | 0x02 | 0x04 | 0x08 | 0x80 | 0x200 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000 | 0x40000 | 0x80000
                     | 0x100000 | 0x200000 | 0x800000 | 0x1000000;
    g[n++] = 10; memcpy(g + n, "8.0.0-fake", 11); n += 11;
    memcpy(g + n, &thread, 4); n += 4; memcpy(g + n, "abcdefgh", 9); n += 9;
    memcpy(g + n, &flags, 2); n += 2; g[n++] = 45; g[n++] = 2; g[n++] = 0;
    flags >>= 16; memcpy(g + n, &flags, 2); n += 2; g[n++] = 21; memset(g + n, 0, 10); n += 10;
    memcpy(g + n, "ijklmnopqrst", 13); n += 13; memcpy(g + n, "mysql_native_password", 22); n += 22;
    g[0] = (uint8_t)(n - 4); g[1] = g[2] = g[3] = 0;
    send_all(fd, g, n);
}

static int serve(void) {
    int listening = socket(AF_INET, SOCK_STREAM, 0), poller = epoll_create1(0), one = 1;
    struct sockaddr_in place = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof place;
    static uint8_t logged[65536], buffer[CHUNK];
    if (bind(listening, (struct sockaddr *)&place, sizeof place) || listen(listening, 1024)) die("listen");
    getsockname(listening, (struct sockaddr *)&place, &len);
    printf("%d\n", ntohs(place.sin_port)); fflush(stdout);
    struct epoll_event e = { .events = EPOLLIN, .data.fd = listening }, ready[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listening, &e);
    for (uint32_t thread = 1;;) {
        int count = epoll_wait(poller, ready, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            if (fd == listening) {
                fd = accept(listening, NULL, NULL);
                if (fd < 0) continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                logged[fd] = 0;
                greet(fd, thread++);
                struct epoll_event c = { .events = EPOLLIN, .data.fd = fd };
                epoll_ctl(poller, EPOLL_CTL_ADD, fd, &c);
                continue;
            }
            ssize_t n = recv(fd, buffer, sizeof buffer, 0);
            if (n <= 0) { close(fd); continue; }
            if (!logged[fd]) {
                uint8_t ok[11]; memcpy(ok, OK, 11);
                ok[3] = (uint8_t)(buffer[3] + 1);
                logged[fd] = 1;
                send_all(fd, ok, 11);
            } else {
                /* each command is a packet; a reset is followed by COM_INIT_DB, and both are answered */
                for (ssize_t at = 0; at + 5 <= n; at += 4 + (buffer[at] | buffer[at + 1] << 8))
                    if (buffer[at + 4] == 3) send_all(fd, answer, (size_t)answer_len);
                    else if (buffer[at + 4] != 1) send_all(fd, OK, 11);
            }
        }
    }
}

static void exactly(int fd, uint8_t *to, size_t len) {
    while (len) { ssize_t n = recv(fd, to, len, 0); if (n <= 0) die("the proxy hung up"); to += n; len -= (size_t)n; }
}

static int logged_in(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in place = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port) };
    uint8_t packet[4096], head[4];
    if (connect(fd, (struct sockaddr *)&place, sizeof place)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    exactly(fd, head, 4); exactly(fd, packet, head[0] | (size_t)head[1] << 8);
    uint32_t flags = 0x01 | 0x04 | 0x08 | 0x200 | 0x2000 | 0x8000 | 0x20000 | 0x80000 | 0x1000000;
    size_t n = 4;
    memcpy(packet + n, &flags, 4); n += 4; memset(packet + n, 0, 28); packet[n + 4] = 45; n += 28;
    memcpy(packet + n, "bench\0\0bench\0caching_sha2_password", 35); n += 35;
    packet[0] = (uint8_t)(n - 4); packet[1] = packet[2] = 0; packet[3] = 1;
    send_all(fd, packet, n);
    exactly(fd, head, 4); exactly(fd, packet, head[0]);
    if (packet[0]) { fprintf(stderr, "login refused: %.*s\n", (int)head[0] - 3, packet + 3); exit(1); }
    return fd;
}

static int load(int port, int clients, double seconds, double warmup) {
    static uint8_t buffer[CHUNK], query[256];
    static int got[65536];
    int poller = epoll_create1(0);
    size_t query_len = 4 + sizeof QUERY;
    query[0] = (uint8_t)sizeof QUERY; query[4] = 3; memcpy(query + 5, QUERY, sizeof QUERY - 1);
    for (int i = 0; i < clients; i++) {
        struct epoll_event c = { .events = EPOLLIN, .data.fd = logged_in(port) };
        epoll_ctl(poller, EPOLL_CTL_ADD, c.data.fd, &c);
        send_all(c.data.fd, query, query_len);
    }
    double begin = now() + warmup, end = begin + seconds;
    struct epoll_event ready[EVENTS];
    for (uint64_t queries = 0;;) {
        int count = epoll_wait(poller, ready, EVENTS, 1000);
        double at = now();
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            ssize_t n = recv(fd, buffer, sizeof buffer, 0);
            if (n <= 0) die("the proxy hung up");
            got[fd] += (int)n;
            if (got[fd] < answer_len) continue;
            got[fd] = 0;
            queries += at >= begin;
            send_all(fd, query, query_len);
        }
        if (at >= end) {
            printf("{\"per_second\": %.1f, \"queries\": %llu, \"seconds\": %.3f}\n", (double)queries / (at - begin),
                   (unsigned long long)queries, at - begin);
            return 0;
        }
    }
}

int main(int argc, char **argv) {
    int port = 0, clients = 16;
    double seconds = 2, warmup = 0.3;
    prepare();
    if (argc > 1 && !strcmp(argv[1], "serve")) return serve();
    for (int i = 2; i + 1 < argc; i += 2)
        if (!strcmp(argv[i], "--port")) port = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--clients")) clients = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--seconds")) seconds = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--warmup")) warmup = atof(argv[i + 1]);
    return load(port, clients, seconds, warmup);
}
