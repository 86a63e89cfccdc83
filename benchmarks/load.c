/* A load client that costs little: many connections, one thread, one system call each way per query.
 *
 *   load --port N [--database D] [--user U] [--clients N] [--shape simple|extended|prepared] [--query SQL]
 *        [--do loop|once|connect|idle|copy] [--warmup S] [--seconds S] [--bytes N] [--ramp N] [--deadline S]
 *
 *   loop     each client asks again as soon as it is answered, for --seconds after --warmup
 *   connect  the same, and each client leaves and comes again after each answer
 *   once     each client asks once and stays; the end is when all have been answered
 *   idle     as once; then nothing happens until standard input ends
 *   copy     each client sends --bytes of CopyData, once
 *
 * At most --ramp clients log in at a time.  It speaks TCP to 127.0.0.1 and knows no authentication but trust.
 * Prints one JSON object; any ErrorResponse or lost connection is the end, with a message and exit status 1.
 */
#define _GNU_SOURCE
#include "pgwire.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, CHUNK = 262144, SLOTS = 64 * 40 };
enum job { LOOP, CONNECT, ONCE, IDLE, COPY };
enum state { AWAY, CONNECTING, LOGIN, PREPARING, ASKING, COPYING, RESTING };

struct conn {
    int fd;
    enum state state;
    uint8_t head[5], head_len, tag, status;
    uint32_t left;                /* of the body at hand */
    uint64_t asked, to_copy;
    const uint8_t *rest;          /* what the socket would not take */
    size_t rest_len;
};

static enum job job = LOOP;
static int poller, clients = 1, ramp = 64, logging_in, away, answered, ready_count;
static struct sockaddr_in there = { .sin_family = AF_INET };
static struct conn *conns;
static struct bytes hello, prepare, request, copy_data, goodbye, copy_done;
static uint64_t copy_bytes, received, done_queries, started, all_ready, all_answered, counting_from, counting_to;
static bool counting;
static uint64_t histogram[SLOTS]; /* of latency: 64 slots for each doubling, so at most 1.6 % off */

static unsigned slot(uint64_t ns) {
    if (ns < 64) return (unsigned)ns;
    unsigned power = 63 - (unsigned)__builtin_clzll(ns), at = (power - 5) * 64 + (unsigned)(ns >> (power - 6) & 63);
    return at < SLOTS ? at : SLOTS - 1;
}

static double microseconds_at(double quantile) {
    uint64_t want = (uint64_t)(quantile * (double)done_queries), seen = 0;
    for (unsigned i = 0; i < SLOTS; i++)
        if ((seen += histogram[i]) > want)
            return i < 64 ? i / 1e3 : (double)((64ull + i % 64) << (i / 64 - 1)) / 1e3;
    return 0;
}

static void watch(struct conn *c, uint32_t what) {
    struct epoll_event e = { .events = what, .data.ptr = c };
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

static void transmit(struct conn *c, const uint8_t *data, size_t n) {
    ssize_t sent = send(c->fd, data, n, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) die("lost while sending: %s", strerror(errno));
    if (sent < 0) sent = 0;
    c->rest = data + sent;
    if ((c->rest_len = n - (size_t)sent)) watch(c, EPOLLIN | EPOLLOUT);
}

static void copy_on(struct conn *c) {
    while (!c->rest_len && c->state == COPYING) {
        if (c->to_copy) {
            c->to_copy -= c->to_copy < copy_data.len ? c->to_copy : copy_data.len;
            transmit(c, copy_data.at, copy_data.len);
        } else {
            c->state = ASKING;
            transmit(c, copy_done.at, copy_done.len);
        }
    }
}

static void ask(struct conn *c) {
    c->state = ASKING;
    c->asked = nanoseconds();
    transmit(c, request.at, request.len);
}

static void come(struct conn *c) {
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&there, sizeof there) && errno != EINPROGRESS) die("connect: %s", strerror(errno));
    struct epoll_event e = { .events = EPOLLOUT, .data.ptr = c };
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
    c->state = CONNECTING;
    c->head_len = 0; c->left = 0;
    if (job == CONNECT) c->asked = nanoseconds();
    logging_in++; away--;
}

static void next_comes(void) {
    static int next;
    while (away && logging_in < ramp) {
        while (conns[next].state != AWAY) next = (next + 1) % clients;
        come(&conns[next]);
    }
}

/* Logged in, and prepared if so asked. */
static void ready(struct conn *c) {
    c->state = RESTING;
    logging_in--;
    if (++ready_count == clients) all_ready = nanoseconds();
    if (job == CONNECT) {
        uint64_t since = c->asked;
        ask(c);
        c->asked = since;
    } else if (job != LOOP) ask(c);
    else if (ready_count == clients) for (int i = 0; i < clients; i++) ask(&conns[i]);
}

static void answer(struct conn *c) {
    if (counting) {
        done_queries++;
        histogram[slot(nanoseconds() - c->asked)]++;
    }
    if (job == LOOP) { ask(c); return; }
    c->state = RESTING;
    if (++answered == clients && !all_answered) all_answered = nanoseconds();
    if (job == CONNECT) {
        transmit(c, goodbye.at, goodbye.len);
        close(c->fd);
        c->state = AWAY;
        away++;
    }
}

static void at_ready_for_query(struct conn *c) {
    if (c->state == LOGIN && prepare.len) {
        c->state = PREPARING;
        transmit(c, prepare.at, prepare.len);
    } else if (c->state == LOGIN || c->state == PREPARING) ready(c);
    else if (c->state == ASKING) answer(c);
    else die("an answer that nobody asked for");
}

static void header(struct conn *c, const uint8_t *body, size_t n) {
    if (c->tag == 'E') {
        fprintf(stderr, "the server says:");
        for (size_t i = 0; i < n && i < c->left; i++) fputc(body[i] >= ' ' ? body[i] : ' ', stderr);
        die(" (while %s)", c->state == LOGIN ? "logging in" : "working");
    }
    if (c->tag == 'R' && n >= 4 && get32(body)) die("only trust authentication is spoken here");
    if (c->tag == 'G') { c->state = COPYING; c->to_copy = copy_bytes; copy_on(c); }
}

static void readable(struct conn *c) {
    static uint8_t buf[CHUNK];
    ssize_t got = recv(c->fd, buf, sizeof buf, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) die("connection lost (state %d): %s", (int)c->state, got ? strerror(errno) : "closed by the server");
    size_t n = (size_t)got, at = 0;
    received += n;
    for (;;) {
        if (c->left) {
            size_t step = c->left < n - at ? c->left : n - at;
            at += step;
            if (c->left -= (uint32_t)step) return;
            if (c->tag == 'Z') { at_ready_for_query(c); if (c->state == AWAY) return; }
        }
        while (c->head_len < 5 && at < n) c->head[c->head_len++] = buf[at++];
        if (c->head_len < 5) return;
        c->head_len = 0;
        c->tag = c->head[0];
        c->left = get32(c->head + 1) - 4;
        header(c, buf + at, n - at);
    }
}

static void writable(struct conn *c) {
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t len = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
        if (error) die("connect: %s", strerror(error));
        c->state = LOGIN;
        watch(c, EPOLLIN);
        transmit(c, hello.at, hello.len);
        return;
    }
    size_t before = c->rest_len;
    transmit(c, c->rest, c->rest_len);
    if (before && !c->rest_len) { watch(c, EPOLLIN); copy_on(c); }
}

static void compose(const char *shape, const char *sql, const char *user, const char *database) {
    size_t m = begin(&hello, 0);
    put32(&hello, PROTOCOL_3);
    puts0(&hello, "user"); puts0(&hello, user); puts0(&hello, "database"); puts0(&hello, database); put(&hello, "", 1);
    finish(&hello, m);
    empty(&goodbye, 'X');
    empty(&copy_done, 'c');
    if (job == COPY) sql = "COPY sink FROM STDIN";
    while (copy_data.len < CHUNK) {
        m = begin(&copy_data, 'd');
        for (int i = 0; i < 10; i++) put(&copy_data, "0123456789", 10);
        put(&copy_data, "\n", 1);
        finish(&copy_data, m);
    }
    if (!strcmp(shape, "simple")) {
        m = begin(&request, 'Q'); puts0(&request, sql); finish(&request, m);
        return;
    }
    bool prepared = !strcmp(shape, "prepared");
    if (!prepared && strcmp(shape, "extended")) die("unknown shape %s", shape);
    const char *name = prepared ? "P_0" : "";
    struct bytes *parse = prepared ? &prepare : &request;
    m = begin(parse, 'P'); puts0(parse, name); puts0(parse, sql); put16(parse, 0); finish(parse, m);
    if (prepared) empty(parse, 'S');
    m = begin(&request, 'B');
    puts0(&request, ""); puts0(&request, name); put16(&request, 0); put16(&request, 0); put16(&request, 0);
    finish(&request, m);
    m = begin(&request, 'D'); put(&request, "P", 2); finish(&request, m);
    m = begin(&request, 'E'); puts0(&request, ""); put32(&request, 0); finish(&request, m);
    empty(&request, 'S');
}

static void report(void) {
    double measured = (double)(counting_to - counting_from) / 1e9;
    printf("{\"clients\": %d, \"ready_s\": %.6f, \"answered_s\": %.6f, \"seconds\": %.6f, \"queries\": %llu, \"per_second\": %.1f, "
           "\"bytes_received\": %llu, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
           clients, all_ready ? (double)(all_ready - started) / 1e9 : 0.0, all_answered ? (double)(all_answered - started) / 1e9 : 0.0,
           measured, (unsigned long long)done_queries, measured > 0 ? (double)done_queries / measured : 0.0,
           (unsigned long long)received, microseconds_at(.5), microseconds_at(.9), microseconds_at(.99), microseconds_at(.999999));
    fflush(stdout);
}

int main(int argc, char **argv) {
    const char *shape = "simple", *sql = "SELECT 1", *user = "bench", *database = "bench";
    const char *jobs[] = { [LOOP] = "loop", [CONNECT] = "connect", [ONCE] = "once", [IDLE] = "idle", [COPY] = "copy" };
    double seconds = 2, warmup = 0.2, deadline = 60;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port")) there.sin_port = htons((uint16_t)atoi(value));
        else if (!strcmp(name, "--clients")) clients = atoi(value);
        else if (!strcmp(name, "--ramp")) ramp = atoi(value);
        else if (!strcmp(name, "--seconds")) seconds = atof(value);
        else if (!strcmp(name, "--warmup")) warmup = atof(value);
        else if (!strcmp(name, "--deadline")) deadline = atof(value);
        else if (!strcmp(name, "--bytes")) copy_bytes = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--shape")) shape = value;
        else if (!strcmp(name, "--query")) sql = value;
        else if (!strcmp(name, "--user")) user = value;
        else if (!strcmp(name, "--database")) database = value;
        else if (!strcmp(name, "--do")) {
            int found = -1;
            for (int j = LOOP; j <= COPY; j++) if (!strcmp(value, jobs[j])) found = j;
            if (found < 0) die("unknown job %s", value);
            job = (enum job)found;
        } else die("unknown option %s", name);
    }
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    raise_file_limit();
    compose(shape, sql, user, database);
    if (!(conns = calloc((size_t)clients, sizeof *conns)) || clients < 1 || ramp < 1) die("clients and ramp must be positive");
    poller = epoll_create1(0);
    away = clients;
    started = nanoseconds();
    bool timed = job == LOOP || job == CONNECT;
    uint64_t begins = 0, ends = 0;
    struct epoll_event events[EVENTS];
    for (;;) {
        next_comes();
        uint64_t now = nanoseconds();
        if (timed && all_ready && !begins) {
            begins = now + (uint64_t)(warmup * 1e9);
            ends = begins + (uint64_t)(seconds * 1e9);
        }
        if (begins && !counting && now >= begins) { counting = true; counting_from = now; }
        if (ends && now >= ends) { counting_to = now; break; }
        if (!timed && all_answered) break;
        if ((double)(now - started) > (deadline + seconds + warmup) * 1e9)
            die("no end in sight: %d of %d clients ready, %d answered", ready_count, clients, answered);
        int n = epoll_wait(poller, events, EVENTS, 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) writable(c);
            if (c->state != AWAY && c->state != CONNECTING && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
    }
    report();
    if (job == IDLE) while (getchar() != EOF) continue;
    return 0;
}
