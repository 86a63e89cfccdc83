/* A PostgreSQL server that does no work: what is left is the cost of the proxy in front of it.
 *
 *   fake_server [--port N] [--login-delay MS]
 *
 * It prints the port it listens on (127.0.0.1 only), lets everybody in, and answers
 *   any statement            one row of one int4 column, in the simple and the extended protocol
 *   BEGIN, COMMIT, SET, ...  their command tag and the right transaction status; SET reports the parameter
 *   ROWS <count> <width>     that many rows, sent 8 kB at a time as PostgreSQL does
 *   COPY ... FROM ...        takes CopyData until CopyDone
 * --login-delay is the time between a startup packet and its answer: the time of one dial.
 */
#define _GNU_SOURCE
#include "pgwire.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, CHUNK = 65536, PG_SEND = 8192 };

struct conn {
    int fd;
    uint8_t status;               /* I or T */
    uint8_t greeted;              /* the startup packet has been read */
    uint8_t copying;
    uint8_t waits_to_write;
    uint8_t *part;                /* an incomplete message */
    size_t part_len, skip;        /* skip: rest of a body that nobody reads */
    struct bytes out;             /* what the socket would not take */
    size_t out_at;
    uint64_t rows_total, rows_at; /* bytes of a ROWS answer, and how many have gone */
    size_t row_len;
    uint64_t due;                 /* when the delayed login is answered */
    struct conn *next;            /* in the queue of delayed logins */
};

static int poller;
static uint64_t login_delay;
static struct conn *first_due, *last_due;
static struct bytes answer;       /* of the event at hand */
static uint8_t *pattern;          /* rows, one after the other */
static size_t pattern_len;
static uint32_t serial;

static void ready(struct conn *c) { size_t m = begin(&answer, 'Z'); put(&answer, &c->status, 1); finish(&answer, m); }

static void complete(const char *tag) { size_t m = begin(&answer, 'C'); puts0(&answer, tag); finish(&answer, m); }

static void describe(int type) {
    size_t m = begin(&answer, 'T');
    put16(&answer, 1); puts0(&answer, "one"); put32(&answer, 0); put16(&answer, 0);
    put32(&answer, (uint32_t)type); put16(&answer, type == 23 ? 4 : -1); put32(&answer, (uint32_t)-1); put16(&answer, 0);
    finish(&answer, m);
}

static void row(void) {
    size_t m = begin(&answer, 'D');
    put16(&answer, 1); put32(&answer, 1); put(&answer, "1", 1);
    finish(&answer, m);
}

static void parameter(const char *name, const char *value) {
    size_t m = begin(&answer, 'S');
    puts0(&answer, name); puts0(&answer, value);
    finish(&answer, m);
}

static void watch(struct conn *c, int write) {
    struct epoll_event e = { .events = write ? EPOLLOUT : EPOLLIN, .data.ptr = c };
    if (c->waits_to_write == write) return;
    c->waits_to_write = (uint8_t)write;
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

static void drop(struct conn *c) {
    for (struct conn **p = &first_due, *before = NULL; *p; before = *p, p = &(*p)->next)
        if (*p == c) { *p = c->next; if (last_due == c) last_due = before; break; }
    close(c->fd); free(c->part); free(c->out.at); free(c);
}

/* Send what is kept, then what ROWS still owes.  0 if the connection is lost. */
static int flush(struct conn *c) {
    while (c->out_at < c->out.len) {
        ssize_t n = send(c->fd, c->out.at + c->out_at, c->out.len - c->out_at, MSG_NOSIGNAL);
        if (n < 0) { watch(c, 1); return errno == EAGAIN; }
        c->out_at += (size_t)n;
    }
    c->out.len = c->out_at = 0;
    while (c->rows_total) {
        uint64_t left = c->rows_total - c->rows_at;
        if (!left) {
            c->rows_total = 0;
            answer.len = 0; complete("SELECT"); ready(c);
            put(&c->out, answer.at, answer.len); answer.len = 0;
            return flush(c);
        }
        ssize_t n = send(c->fd, pattern + c->rows_at % c->row_len, left < PG_SEND ? left : PG_SEND, MSG_NOSIGNAL);
        if (n < 0) { watch(c, 1); return errno == EAGAIN; }
        c->rows_at += (uint64_t)n;
    }
    watch(c, 0);
    return 1;
}

static void rows(struct conn *c, const char *text) {
    unsigned long count = 1, width = 10;
    if (sscanf(text, "%lu %lu", &count, &width) < 1 || width > PG_SEND) die("ROWS <count> <width up to %d>", PG_SEND);
    struct bytes one = { 0 };
    size_t m = begin(&one, 'D');
    put16(&one, 1); put32(&one, (uint32_t)width);
    for (unsigned long i = 0; i < width; i++) put(&one, "x", 1);
    finish(&one, m);
    if (c->row_len != one.len || !pattern) {
        struct bytes many = { 0 };
        while (many.len < PG_SEND + one.len) put(&many, one.at, one.len);
        free(pattern);            /* one width at a time is enough for a benchmark */
        pattern = many.at; pattern_len = many.len;
    }
    c->row_len = one.len; c->rows_total = count * one.len; c->rows_at = 0;
    free(one.at);
    describe(25);
}

static void set(const char *text) {
    char name[64], value[256];
    if (sscanf(text, "%63[A-Za-z_]%*[ =TOto]%255[^;]", name, value) == 2) {
        char *v = value;
        size_t n = strlen(v);
        if (n >= 2 && v[0] == '\'') { v[n - 1] = 0; v++; }
        parameter(name, v);
    }
    complete("SET");
}

static void query(struct conn *c, const char *text) {
    if (!*text) { empty(&answer, 'I'); ready(c); return; }
    if (!strncasecmp(text, "ROWS ", 5)) { rows(c, text + 5); return; }
    if (!strncasecmp(text, "COPY ", 5)) {
        size_t m = begin(&answer, 'G');
        put(&answer, "\0\0\1\0\0", 5);
        finish(&answer, m);
        c->copying = 1;
        return;
    }
    if (!strncasecmp(text, "BEGIN", 5)) { c->status = 'T'; complete("BEGIN"); }
    else if (!strncasecmp(text, "COMMIT", 6)) { c->status = 'I'; complete("COMMIT"); }
    else if (!strncasecmp(text, "ROLLBACK", 8)) { c->status = 'I'; complete("ROLLBACK"); }
    else if (!strncasecmp(text, "DISCARD ALL", 11)) complete("DISCARD ALL");
    else if (!strncasecmp(text, "SET ", 4)) set(text + 4);
    else { describe(23); row(); complete("SELECT 1"); }
    ready(c);
}

static void welcome(struct conn *c) {
    size_t m = begin(&answer, 'R'); put32(&answer, 0); finish(&answer, m);
    parameter("server_version", "18.0"); parameter("server_encoding", "UTF8"); parameter("client_encoding", "UTF8");
    parameter("DateStyle", "ISO, MDY"); parameter("IntervalStyle", "postgres"); parameter("TimeZone", "Etc/UTC");
    parameter("integer_datetimes", "on"); parameter("standard_conforming_strings", "on");
    parameter("search_path", "\"$user\", public"); parameter("application_name", ""); parameter("is_superuser", "off");
    parameter("session_authorization", "bench"); parameter("default_transaction_read_only", "off");
    parameter("in_hot_standby", "off"); parameter("scram_iterations", "4096");
    m = begin(&answer, 'K'); put32(&answer, ++serial); put32(&answer, serial * 2654435761u); finish(&answer, m);
    ready(c);
}

/* The untyped packets.  0: hang up. */
static int startup(struct conn *c, uint32_t code) {
    if (code == SSL_REQUEST || code == GSSENC_REQUEST) { put(&answer, "N", 1); return 1; }
    if (code >> 16 != 3) return 0;
    c->greeted = 1;
    c->status = 'I';
    if (!login_delay) { welcome(c); return 1; }
    c->due = nanoseconds() + login_delay;
    if (last_due) last_due->next = c; else first_due = c;
    last_due = c;
    return 1;
}

static int message(struct conn *c, char tag, const uint8_t *body) {
    switch (tag) {
    case 'Q': query(c, (const char *)body); break;
    case 'P': empty(&answer, '1'); break;
    case 'B': empty(&answer, '2'); break;
    case 'D':
        if (body[0] == 'S') { size_t m = begin(&answer, 't'); put16(&answer, 0); finish(&answer, m); }
        describe(23);
        break;
    case 'E': row(); complete("SELECT 1"); break;
    case 'C': empty(&answer, '3'); break;
    case 'S': ready(c); break;
    case 'c': case 'f': c->copying = 0; complete("COPY"); ready(c); break;
    case 'd': case 'H': break;
    default: return 0;            /* X, and what we do not know */
    }
    return 1;
}

static int consume(struct conn *c, const uint8_t *buf, size_t n) {
    size_t at = 0;
    if (c->skip) {
        at = c->skip < n ? c->skip : n;
        c->skip -= at;
    }
    while (at < n) {
        size_t head = c->greeted ? 5 : 4, have = n - at;
        size_t size = have >= head ? get32(buf + at + head - 4) + head - 4 : 0;
        if (size > have && head == 5 && buf[at] == 'd') { c->skip = size - have; return 1; }
        if (!size || size > have || (!c->greeted && size < 8)) {
            if (size > CHUNK || have > CHUNK || (size && size < head)) return 0;
            c->part = realloc(c->part, have);
            memmove(c->part, buf + at, have);
            c->part_len = have;
            return 1;
        }
        if (!(c->greeted ? message(c, (char)buf[at], buf + at + 5) : startup(c, get32(buf + at + 4)))) return 0;
        at += size;
    }
    return 1;
}

static void readable(struct conn *c) {
    static uint8_t buf[2 * CHUNK];
    size_t kept = c->part_len;
    if (kept) memcpy(buf, c->part, kept);
    ssize_t n = recv(c->fd, buf + kept, CHUNK, 0);
    if (n < 0 && errno == EAGAIN) return;
    c->part_len = 0;
    answer.len = 0;
    if (n <= 0 || !consume(c, buf, kept + (size_t)n)) { drop(c); return; }
    size_t sent = 0;
    if (answer.len && c->out.len == 0) {
        ssize_t s = send(c->fd, answer.at, answer.len, MSG_NOSIGNAL);
        if (s < 0 && errno != EAGAIN) { drop(c); return; }
        if (s > 0) sent = (size_t)s;
    }
    if (sent < answer.len) put(&c->out, answer.at + sent, answer.len - sent);
    if ((c->out.len || c->rows_total) && !flush(c)) drop(c);
}

static void answer_due_logins(void) {
    while (first_due && first_due->due <= nanoseconds()) {
        struct conn *c = first_due;
        first_due = c->next; c->next = NULL;
        if (!first_due) last_due = NULL;
        answer.len = 0;
        welcome(c);
        put(&c->out, answer.at, answer.len);
        if (!flush(c)) drop(c);
    }
}

int main(int argc, char **argv) {
    struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port")) here.sin_port = htons((uint16_t)atoi(argv[i + 1]));
        else if (!strcmp(argv[i], "--login-delay")) login_delay = strtoull(argv[i + 1], NULL, 10) * 1000000u;
        else die("unknown option %s", argv[i]);
    }
    raise_file_limit();
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    socklen_t len = sizeof here;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&here, len) || listen(listener, 4096)) die("cannot listen: %s", strerror(errno));
    getsockname(listener, (struct sockaddr *)&here, &len);
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    poller = epoll_create1(0);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL }, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int timeout = -1;
        if (first_due) {
            uint64_t now = nanoseconds();
            timeout = first_due->due > now ? (int)((first_due->due - now) / 1000000u) + 1 : 0;
        }
        int n = epoll_wait(poller, events, EVENTS, timeout);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (c) {
                if (!c->waits_to_write) readable(c);
                else if (!flush(c)) drop(c);
                continue;
            }
            int fd;
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                c = calloc(1, sizeof *c);
                c->fd = fd;
                e.data.ptr = c;
                epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
            }
        }
        answer_due_logins();
    }
}
