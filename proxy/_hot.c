/* The compiled twin of the hot path: Histogram and Tally (pool/tally.py), Link (session/link.py), the one event of
 * relay/pump.py for two plain sockets, and the Ear of pool/upstream.py.  The Python texts are the specification; tests run both over the same streams.
 *
 * Nothing here decides anything: what needs thought (a statement that could matter, an error, a changed setting) is a
 * call back into the Python methods `_text`, `_error` and `_reported`, or a flag for the relay.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { IDLE = 1, TERMINATE = 2, THINK = 4, BEGAN = 8, SHORT = 16, CLOSED = 32, LOST = 64, AWAY = 128, BROKEN = 256, SETTLE = 512 };
enum { NOTHING, REQUEST, PARSE, OPEN, BYE, COPY, COPY_END };
enum { BULK = 16384, BOUNDS_MAX = 31, SMALL_MESSAGE = 4096, LONGEST_STATUS = 65536 };

static const uint8_t KIND[256] = {
    ['Q'] = REQUEST, ['S'] = REQUEST, ['F'] = REQUEST, ['P'] = PARSE, ['X'] = BYE, ['d'] = COPY, ['c'] = COPY_END, ['f'] = COPY_END,
    ['B'] = OPEN, ['D'] = OPEN, ['E'] = OPEN, ['C'] = OPEN, ['H'] = OPEN};

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static double bounds[BOUNDS_MAX];
static int bounds_count;
static PyObject *client_fault, *upstream_fault;
static Py_buffer shared; /* what every event is received into; given by set_buffer */
enum { WORDS_MAX = 31 }; /* so that shifting by their number is defined */
static char words[WORDS_MAX][24]; /* a text with none of these has no consequences; lower case */
static uint8_t word_length[WORDS_MAX];
static uint32_t begins[256]; /* by letter: a bit for each word that begins with it */
static int words_count, words_watched; /* the first `words_watched` matter only when the link watches */

/* perf_counter() of Python, which the relay reads too. */
static double now(void) {
    struct timespec t;
#ifdef __APPLE__
    clock_gettime(CLOCK_UPTIME_RAW, &t);
#else
    clock_gettime(CLOCK_MONOTONIC, &t);
#endif
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* -- Histogram ---------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    uint64_t counts[BOUNDS_MAX + 1];
    double total;
} Histogram;

static int bucket_of(double value) {
    int low = 0, high = bounds_count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (bounds[middle] < value) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void observe(Histogram *self, double value) {
    self->counts[bucket_of(value)]++;
    self->total += value;
}

static PyObject *Histogram_observe(PyObject *self, PyObject *value) {
    double v = PyFloat_AsDouble(value);
    if (v == -1.0 && PyErr_Occurred()) return NULL;
    observe((Histogram *)self, v);
    Py_RETURN_NONE;
}

static PyObject *Histogram_counts(PyObject *self, void *closure) {
    (void)closure;
    PyObject *list = PyList_New(bounds_count + 1);
    if (!list) return NULL;
    for (int i = 0; i <= bounds_count; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(((Histogram *)self)->counts[i]);
        if (!number) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, number);
    }
    return list;
}

static PyMethodDef Histogram_methods[] = {{"observe", Histogram_observe, METH_O, "Count one value."}, {NULL}};
static PyGetSetDef Histogram_getset[] = {{"counts", Histogram_counts, NULL, "By upper bound, not cumulative.", NULL}, {NULL}};
static PyMemberDef Histogram_members[] = {{"total", T_DOUBLE, offsetof(Histogram, total), 0, "Sum of the values."}, {NULL}};

static PyTypeObject HistogramType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "proxy._hot.Histogram",
    .tp_basicsize = sizeof(Histogram),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_methods = Histogram_methods,
    .tp_getset = Histogram_getset,
    .tp_members = Histogram_members,
};

/* -- Tally -------------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *plugin, *server, *user, *errors, *pins;
    Histogram *wait_time, *query_time, *transaction_time;
    long long clients, connections, leases, queries, transactions, from_client, from_upstream;
} Tally;

static int Tally_init(PyObject *o, PyObject *args, PyObject *kwds) {
    static char *names[] = {"plugin", "server", "user", NULL};
    Tally *self = (Tally *)o;
    PyObject *plugin, *server, *user;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "OOO", names, &plugin, &server, &user)) return -1;
    PyObject *collections = PyImport_ImportModule("collections");
    if (!collections) return -1;
    Py_XSETREF(self->plugin, Py_NewRef(plugin));
    Py_XSETREF(self->server, Py_NewRef(server));
    Py_XSETREF(self->user, Py_NewRef(user));
    Py_XSETREF(self->errors, PyObject_CallMethod(collections, "Counter", NULL));
    Py_XSETREF(self->pins, PyObject_CallMethod(collections, "Counter", NULL));
    Py_DECREF(collections);
    Histogram **all[] = {&self->wait_time, &self->query_time, &self->transaction_time};
    for (int i = 0; i < 3; i++) Py_XSETREF(*all[i], (Histogram *)PyObject_CallNoArgs((PyObject *)&HistogramType));
    return self->errors && self->pins && self->wait_time && self->query_time && self->transaction_time ? 0 : -1;
}

static void Tally_dealloc(PyObject *o) {
    Tally *self = (Tally *)o;
    Py_XDECREF(self->plugin);
    Py_XDECREF(self->server);
    Py_XDECREF(self->user);
    Py_XDECREF(self->errors);
    Py_XDECREF(self->pins);
    Py_XDECREF(self->wait_time);
    Py_XDECREF(self->query_time);
    Py_XDECREF(self->transaction_time);
    Py_TYPE(o)->tp_free(o);
}

#define NUMBER(type, name) {#name, T_LONGLONG, offsetof(type, name), 0, NULL}
#define OBJECT(type, name, access) {#name, T_OBJECT, offsetof(type, name), access, NULL}
static PyMemberDef Tally_members[] = {
    OBJECT(Tally, plugin, READONLY), OBJECT(Tally, server, READONLY), OBJECT(Tally, user, READONLY), OBJECT(Tally, errors, READONLY),
    OBJECT(Tally, pins, READONLY), OBJECT(Tally, wait_time, READONLY), OBJECT(Tally, query_time, READONLY),
    OBJECT(Tally, transaction_time, READONLY), NUMBER(Tally, clients), NUMBER(Tally, connections), NUMBER(Tally, leases),
    NUMBER(Tally, queries), NUMBER(Tally, transactions), NUMBER(Tally, from_client), NUMBER(Tally, from_upstream), {NULL}};

static PyTypeObject TallyType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "proxy._hot.Tally",
    .tp_basicsize = sizeof(Tally),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = Tally_init,
    .tp_dealloc = Tally_dealloc,
    .tp_members = Tally_members,
};

/* -- Link --------------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Tally *tally;
    PyObject *pinned, *reported, *statement, *c_part, *u_part; /* the parts: bytes, or NULL for none */
    uint8_t *owed;                                             /* a queue: owed[owed_at .. owed_end] */
    uint32_t owed_at, owed_end, owed_size;
    long long c_left, u_left, cut, got, sent;
    double since, transaction_since;
    int status, fd, up_fd;
    char watch, open, copying, dirty, used, fatal, big, big_up, swift;
} Link;

static bool owe(Link *self, uint8_t tag) {
    if (self->owed_end == self->owed_size) {
        uint32_t length = self->owed_end - self->owed_at;
        if (self->owed_at && length <= self->owed_size / 2) {
            memmove(self->owed, self->owed + self->owed_at, length);
        } else {
            uint32_t size = self->owed_size ? self->owed_size * 2 : 16;
            uint8_t *bigger = size > self->owed_size ? PyMem_Malloc(size) : NULL;
            if (!bigger) {
                PyErr_NoMemory();
                return false;
            }
            if (length) memcpy(bigger, self->owed + self->owed_at, length);
            PyMem_Free(self->owed);
            self->owed = bigger;
            self->owed_size = size;
        }
        self->owed_at = 0;
        self->owed_end = length;
    }
    self->owed[self->owed_end++] = tag;
    return true;
}

static inline bool owes(const Link *self) { return self->owed_at != self->owed_end; }
static inline bool is_mark(uint8_t tag) { return tag == 'c' || tag == 'f'; }

static inline uint8_t lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c; } /* of no locale */

static bool contains_word(const Link *self, const uint8_t *text, int64_t length) {
    uint32_t wanted = self->watch ? ~0u : ~0u << words_watched;
    for (int64_t i = 0; i < length; i++)
        for (uint32_t left = begins[text[i]] & wanted; left; left &= left - 1) {
            int w = __builtin_ctz(left), at = 1;
            if (word_length[w] > length - i) continue;
            while (at < word_length[w] && lower(text[i + at]) == (uint8_t)words[w][at]) at++;
            if (at == word_length[w]) return true;
        }
    return false;
}

/* A statement's text: the Python method judges it, if there is anything to judge.  Flags, or -1. */
static int statement_text(Link *self, const uint8_t *buf, int64_t start, int64_t end, int64_t n) {
    if (end <= n && !contains_word(self, buf + start, end - start)) return 0;
    int64_t seen = end < n ? end : n;
    if (start > seen) start = seen;
    PyObject *answer = PyObject_CallMethod((PyObject *)self, "_text", "y#LLL", (const char *)buf + start, (Py_ssize_t)(seen - start),
                                           0LL, (long long)(end - start), (long long)(seen - start));
    if (!answer) return -1;
    long flags = PyLong_AsLong(answer);
    Py_DECREF(answer);
    return flags == -1 && PyErr_Occurred() ? -1 : (int)flags;
}

static int call_with_bytes(Link *self, const char *method, const uint8_t *data, int64_t length) {
    PyObject *done = PyObject_CallMethod((PyObject *)self, method, "y#", (const char *)data, (Py_ssize_t)length);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static inline uint32_t big_endian(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int keep_part(PyObject **part, const uint8_t *data, int64_t length) {
    PyObject *kept = PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)length);
    if (!kept) return -1;
    Py_XSETREF(*part, kept);
    return 0;
}

static uint8_t *joined(PyObject *part, const uint8_t *buf, int64_t n) {
    Py_ssize_t length = PyBytes_GET_SIZE(part);
    uint8_t *whole = PyMem_Malloc((size_t)(length + n));
    if (!whole) {
        PyErr_NoMemory();
        return NULL;
    }
    memcpy(whole, PyBytes_AS_STRING(part), (size_t)length);
    memcpy(whole + length, buf, (size_t)n);
    return whole;
}

static int walk_client(Link *self, const uint8_t *buf, int64_t n) {
    int64_t at = self->c_left;
    if (at >= n) {
        self->c_left = at - n;
        return BEGAN;
    }
    if (self->c_part) {
        PyObject *part = self->c_part;
        Py_ssize_t length = PyBytes_GET_SIZE(part);
        self->c_part = NULL;
        uint8_t *whole = joined(part, buf, n);
        int flags = whole ? walk_client(self, whole, n + length) : -1;
        PyMem_Free(whole);
        self->cut -= length;
        if (flags >= 0 && flags & TERMINATE && self->cut < 0) {
            Py_XSETREF(self->c_part, Py_NewRef(part)); /* the first bytes of the goodbye have gone to the server already */
            self->cut = 0;
        }
        Py_DECREF(part);
        return flags;
    }
    int flags = 0;
    while (at + 5 <= n) {
        uint8_t tag = buf[at];
        uint32_t size = big_endian(buf + at + 1);
        if (size < 4 || size > 0x7FFFFFFF) {
            PyErr_Format(client_fault, "invalid message length %u", size);
            return -1;
        }
        int64_t end = at + size + 1;
        int more = 0;
        switch (KIND[tag]) {
        case REQUEST:
            if (tag == 'Q' && (more = statement_text(self, buf, at + 5, end, n)) < 0) return -1;
            flags |= more;
            if (!owes(self)) {
                self->since = now();
                if (self->status == 'I') self->transaction_since = self->since;
            }
            if (tag != 'S') {
                if (!owe(self, tag)) return -1;
            } else {
                self->open = 0;
                if (!self->copying && !owe(self, tag)) return -1;
            }
            self->used = 1;
            break;
        case OPEN:
            self->open = 1;
            break;
        case PARSE:
            self->open = 1;
            if ((more = statement_text(self, buf, at + 5, end, n)) < 0) return -1;
            flags |= more;
            if (self->watch && (!self->pinned || self->pinned == Py_None) && (at + 5 >= n || buf[at + 5])) {
                PyObject *done = PyObject_CallMethod((PyObject *)self, "pin", "s", "prepared statement");
                Py_XDECREF(done);
                if (!done) return -1;
            }
            break;
        case COPY:
            break;
        case COPY_END:
            if (self->copying) self->copying = 0;
            else if (!owe(self, tag)) return -1;
            break;
        case BYE:
            self->cut = at;
            return flags | TERMINATE;
        default:
            PyErr_Format(client_fault, "invalid frontend message type %d", (int)tag);
            return -1;
        }
        flags |= BEGAN;
        at = end;
    }
    self->c_left = at > n ? at - n : 0;
    if (at < n && keep_part(&self->c_part, buf + at, n - at) < 0) return -1;
    return flags;
}

static int ready(Link *self, uint8_t status) {
    Tally *tally = self->tally;
    while (owes(self) && is_mark(self->owed[self->owed_at++])) continue;
    if (owes(self) && !self->open) { /* marks alone came late, for a COPY that had failed */
        uint32_t at = self->owed_at;
        while (at < self->owed_end && is_mark(self->owed[at])) at++;
        if (at == self->owed_end) self->owed_at = at;
    }
    if (!owes(self)) self->owed_at = self->owed_end = 0;
    double t = now();
    tally->queries++;
    observe(tally->query_time, t - self->since);
    self->since = t;
    self->copying = 0;
    self->status = status;
    if (status == 'I') {
        tally->transactions++;
        observe(tally->transaction_time, t - self->transaction_since);
        self->transaction_since = t;
        if (!owes(self) && !self->open && !self->c_left && !self->c_part) return IDLE;
    }
    return 0;
}

/* Strike off the Syncs that this COPY eats: those between its own request and the mark of its end. */
static void copy_in(Link *self) {
    uint8_t first = 0;
    if (owes(self) && is_mark(self->owed[self->owed_at])) {
        self->owed_at++; /* sent whole, without a Sync before its data */
        return;
    }
    if (owes(self) && self->owed[self->owed_at] != 'S') first = self->owed[self->owed_at++];
    while (owes(self) && self->owed[self->owed_at] == 'S') self->owed_at++;
    if (owes(self) && is_mark(self->owed[self->owed_at])) self->owed_at++;
    else self->copying = 1;
    if (first) self->owed[--self->owed_at] = first; /* a simple Query: its own ReadyForQuery is still to come */
}

static int walk_upstream(Link *self, const uint8_t *buf, int64_t n) {
    int64_t at = self->u_left;
    if (at >= n) {
        self->u_left = at - n;
        return 0;
    }
    if (self->u_part) {
        PyObject *part = self->u_part;
        self->u_part = NULL;
        uint8_t *whole = joined(part, buf, n);
        int flags = whole ? walk_upstream(self, whole, n + PyBytes_GET_SIZE(part)) : -1;
        PyMem_Free(whole);
        Py_DECREF(part);
        return flags;
    }
    int flags = 0;
    while (at + 5 <= n) {
        uint8_t tag = buf[at];
        uint32_t size = big_endian(buf + at + 1);
        if (size < 4 || size > 0x7FFFFFFF) {
            PyErr_Format(upstream_fault, "the server sent a message of length %u", size);
            return -1;
        }
        int64_t end = at + size + 1;
        if (tag == 'Z') {
            if (size != 5) {
                PyErr_Format(upstream_fault, "the server sent a ReadyForQuery of length %u", size);
                return -1;
            }
            if (end > n) break;
            flags = ready(self, buf[at + 5]);
        } else if (tag == 'S' || tag == 'C' || tag == 'E') {
            if (tag == 'S' && size > LONGEST_STATUS) {
                PyErr_Format(upstream_fault, "the server sent a ParameterStatus of length %u", size);
                return -1;
            }
            int64_t seen = tag == 'S' || size < SMALL_MESSAGE ? end : at + SMALL_MESSAGE;
            if (seen > n) break; /* wait for as much as is looked at, so that a cut changes nothing */
            if (tag == 'E') {
                if (call_with_bytes(self, "_error", buf + at + 5, seen - at - 5) < 0) return -1;
            } else if (tag == 'S') {
                if (call_with_bytes(self, "_reported", buf + at + 5, seen - at - 5) < 0) return -1;
            } else if (self->watch && n - at >= 9 && (!memcmp(buf + at + 5, "SET", 4) || !memcmp(buf + at + 5, "RESE", 4))) {
                self->dirty = 1;
            }
        } else if (tag == 'G') {
            copy_in(self);
        }
        at = end;
    }
    self->u_left = at > n ? at - n : 0;
    if (at < n) {
        flags = 0;
        if (keep_part(&self->u_part, buf + at, n - at) < 0) return -1;
    }
    return flags;
}

/* Either walk over a buffer that Python gives. */
static PyObject *walk(PyObject *o, PyObject *const *args, Py_ssize_t count, bool client) {
    Link *self = (Link *)o;
    Py_buffer view;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "expected a buffer and a length");
        return NULL;
    }
    long long n = PyLong_AsLongLong(args[1]);
    if ((n == -1 && PyErr_Occurred()) || PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) return NULL;
    int flags = -1;
    if (n < 0 || n > view.len) PyErr_SetString(PyExc_ValueError, "length out of range");
    else if (client) {
        self->tally->from_client += n;
        flags = walk_client(self, view.buf, n);
    } else {
        self->tally->from_upstream += n;
        flags = walk_upstream(self, view.buf, n);
    }
    PyBuffer_Release(&view);
    return flags < 0 ? NULL : PyLong_FromLong(flags);
}

static PyObject *Link_from_client(PyObject *o, PyObject *const *args, Py_ssize_t count) { return walk(o, args, count, true); }
static PyObject *Link_from_upstream(PyObject *o, PyObject *const *args, Py_ssize_t count) { return walk(o, args, count, false); }

/* -- one event ---------------------------------------------------------------------------------------------------- */

static int64_t receive(int fd, char big) {
    Py_ssize_t room = big ? shared.len : shared.len < BULK ? shared.len : BULK;
    return recv(fd, shared.buf, (size_t)room, 0);
}

static inline bool would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

static int forward(Link *self, int fd, int64_t n, int flags) {
    int64_t sent = send(fd, shared.buf, (size_t)n, MSG_NOSIGNAL);
    if (sent < 0) {
        if (!would_block()) return flags | BROKEN;
        sent = 0;
    }
    if (sent < n) {
        self->sent = sent;
        return flags | SHORT;
    }
    return flags;
}

/* Outcome, or -1 with an exception. */
static int swift_client(Link *self) {
    int64_t n = receive(self->fd, self->big);
    if (n <= 0) return n == 0 ? CLOSED : would_block() ? 0 : LOST;
    self->big = n >= BULK;
    self->got = n;
    self->sent = 0;
    if (self->up_fd < 0) return AWAY;
    self->tally->from_client += n;
    int flags = walk_client(self, shared.buf, n);
    if (flags < 0 || flags & (TERMINATE | THINK)) return flags;
    flags = forward(self, self->up_fd, n, 0);
    return !flags && self->watch && self->status == 'I' && !owes(self) ? SETTLE : flags;
}

static int swift_upstream(Link *self) {
    int64_t n = receive(self->up_fd, self->big_up);
    if (n <= 0) return n == 0 ? CLOSED : would_block() ? 0 : LOST;
    self->big_up = n >= BULK;
    self->got = n;
    self->sent = 0;
    self->tally->from_upstream += n;
    int flags = walk_upstream(self, shared.buf, n);
    if (flags < 0) return -1;
    int outcome = forward(self, self->fd, n, flags);
    return outcome & BROKEN ? BROKEN : outcome;
}

static PyObject *number_of(int outcome) { return outcome < 0 ? NULL : PyLong_FromLong(outcome); }

static PyObject *Link_swift_client(PyObject *o, PyObject *unused) { (void)unused; return number_of(swift_client((Link *)o)); }
static PyObject *Link_swift_upstream(PyObject *o, PyObject *unused) { (void)unused; return number_of(swift_upstream((Link *)o)); }

static PyObject *Link_swift_push(PyObject *o, PyObject *number) {
    long long n = PyLong_AsLongLong(number);
    if (n < 0 || n > shared.len || ((Link *)o)->up_fd < 0) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "nothing to push, or nowhere to");
        return NULL;
    }
    return number_of(forward((Link *)o, ((Link *)o)->up_fd, n, 0));
}

/* What the loop calls: an event that leaves nothing to do never enters Python. */
static PyObject *event(PyObject *o, int (*pump)(Link *), const char *slow, const char *outcome_of, const char *fault_of) {
    if (!((Link *)o)->swift) return PyObject_CallMethod(o, slow, NULL);
    int outcome = pump((Link *)o);
    if (outcome == 0) Py_RETURN_NONE;
    if (outcome > 0) return PyObject_CallMethod(o, outcome_of, "i", outcome);
    PyObject *type, *fault, *trace;
    PyErr_Fetch(&type, &fault, &trace);
    PyErr_NormalizeException(&type, &fault, &trace);
    PyObject *done = PyObject_CallMethod(o, fault_of, "O", fault);
    Py_XDECREF(type);
    Py_XDECREF(fault);
    Py_XDECREF(trace);
    return done;
}

static PyObject *Link_client_event(PyObject *o, PyObject *unused) {
    (void)unused;
    return event(o, swift_client, "on_client", "_client_outcome", "_client_fault");
}

static PyObject *Link_upstream_event(PyObject *o, PyObject *unused) {
    (void)unused;
    if (((Link *)o)->up_fd < 0) Py_RETURN_NONE;
    return event(o, swift_upstream, "on_upstream", "_upstream_outcome", "_upstream_fault");
}

/* -- the type ----------------------------------------------------------------------------------------------------- */

static int Link_init(PyObject *o, PyObject *args, PyObject *kwds) {
    static char *names[] = {"tally", "watch", NULL};
    Link *self = (Link *)o;
    PyObject *tally;
    int watch;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O!$p", names, &TallyType, &tally, &watch)) return -1;
    Py_XSETREF(self->tally, (Tally *)Py_NewRef(tally));
    self->watch = (char)watch;
    self->status = 'I';
    self->fd = self->up_fd = -1;
    return 0;
}

static int Link_traverse(PyObject *o, visitproc visit, void *arg) {
    Link *self = (Link *)o;
    Py_VISIT(self->reported);
    return 0;
}

static int Link_clear(PyObject *o) {
    Py_CLEAR(((Link *)o)->reported);
    return 0;
}

static void Link_dealloc(PyObject *o) {
    Link *self = (Link *)o;
    PyObject_GC_UnTrack(o);
    Py_XDECREF(self->tally);
    Py_XDECREF(self->pinned);
    Py_XDECREF(self->reported);
    Py_XDECREF(self->statement);
    Py_XDECREF(self->c_part);
    Py_XDECREF(self->u_part);
    PyMem_Free(self->owed);
    Py_TYPE(o)->tp_free(o);
}

static PyObject *Link_owed(PyObject *o, void *closure) {
    (void)closure;
    Link *self = (Link *)o;
    return PyBytes_FromStringAndSize((const char *)self->owed + self->owed_at, self->owed_end - self->owed_at);
}

static PyObject *Link_partial(PyObject *o, void *closure) {
    (void)closure;
    return PyBool_FromLong(((Link *)o)->c_left || ((Link *)o)->c_part);
}

static PyObject *Link_settled(PyObject *o, void *closure) {
    (void)closure;
    Link *self = (Link *)o;
    return PyBool_FromLong(!(owes(self) || self->open || self->copying || self->c_left || self->c_part || self->u_left || self->u_part));
}

static PyObject *part_of(PyObject *part) { return part ? Py_NewRef(part) : PyBytes_FromStringAndSize(NULL, 0); }
static PyObject *Link_c_part(PyObject *o, void *closure) { (void)closure; return part_of(((Link *)o)->c_part); }
static PyObject *Link_u_part(PyObject *o, void *closure) { (void)closure; return part_of(((Link *)o)->u_part); }

static PyGetSetDef Link_getset[] = {
    {"owed", Link_owed, NULL, "Requests without their ReadyForQuery, the oldest first.", NULL},
    {"partial", Link_partial, NULL, "Only a part of a client's message has passed.", NULL},
    {"settled", Link_settled, NULL, "Nothing is owed and both directions stand between two messages.", NULL},
    {"c_part", Link_c_part, NULL, NULL, NULL},
    {"u_part", Link_u_part, NULL, NULL, NULL},
    {NULL}};

#define FLAG(name) {#name, T_BOOL, offsetof(Link, name), 0, NULL}
static PyMemberDef Link_members[] = {
    OBJECT(Link, tally, READONLY), OBJECT(Link, pinned, 0), OBJECT(Link, reported, 0), OBJECT(Link, statement, 0),
    NUMBER(Link, c_left), NUMBER(Link, u_left), NUMBER(Link, cut), NUMBER(Link, got), NUMBER(Link, sent),
    {"since", T_DOUBLE, offsetof(Link, since), 0, NULL}, {"transaction_since", T_DOUBLE, offsetof(Link, transaction_since), 0, NULL},
    {"status", T_INT, offsetof(Link, status), 0, NULL}, {"fd", T_INT, offsetof(Link, fd), 0, NULL},
    {"up_fd", T_INT, offsetof(Link, up_fd), 0, NULL}, FLAG(watch), FLAG(open), FLAG(copying), FLAG(dirty), FLAG(used), FLAG(fatal),
    FLAG(big), FLAG(big_up), FLAG(swift), {NULL}};

static PyMethodDef Link_methods[] = {
    {"from_client", (PyCFunction)(void (*)(void))Link_from_client, METH_FASTCALL, "Account for buf[:n] on its way to the upstream."},
    {"from_upstream", (PyCFunction)(void (*)(void))Link_from_upstream, METH_FASTCALL, "Account for buf[:n] on its way to the client."},
    {"swift_client", Link_swift_client, METH_NOARGS, "pump_client for two plain sockets."},
    {"swift_upstream", Link_swift_upstream, METH_NOARGS, "pump_upstream for two plain sockets."},
    {"swift_push", Link_swift_push, METH_O, "Send what is in the buffer to a plain upstream: SHORT, BROKEN or 0."},
    {"client_event", Link_client_event, METH_NOARGS, "The client's socket can be read."},
    {"upstream_event", Link_upstream_event, METH_NOARGS, "The upstream's socket can be read."},
    {NULL}};

static PyTypeObject LinkType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "proxy._hot.Link",
    .tp_basicsize = sizeof(Link),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = Link_init,
    .tp_dealloc = Link_dealloc,
    .tp_traverse = Link_traverse,
    .tp_clear = Link_clear,
    .tp_methods = Link_methods,
    .tp_getset = Link_getset,
    .tp_members = Link_members,
};

/* -- Ear: what an upstream hears goes to its rider ------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    PyObject *rider;
} Ear;

static PyObject *Ear_on_readable(PyObject *o, PyObject *unused) {
    PyObject *rider = ((Ear *)o)->rider;
    if (!rider || rider == Py_None) return PyObject_CallMethod(o, "_unridden", NULL);
    Py_INCREF(rider); /* the event may end the ride */
    PyObject *done = PyObject_TypeCheck(rider, &LinkType) ? Link_upstream_event(rider, unused)
                                                          : PyObject_CallMethod(rider, "upstream_event", NULL);
    Py_DECREF(rider);
    return done;
}

static int Ear_traverse(PyObject *o, visitproc visit, void *arg) {
    Py_VISIT(((Ear *)o)->rider);
    return 0;
}

static int Ear_clear(PyObject *o) {
    Py_CLEAR(((Ear *)o)->rider);
    return 0;
}

static void Ear_dealloc(PyObject *o) {
    PyObject_GC_UnTrack(o);
    Ear_clear(o);
    Py_TYPE(o)->tp_free(o);
}

static PyMethodDef Ear_methods[] = {{"on_readable", Ear_on_readable, METH_NOARGS, "The upstream's socket can be read."}, {NULL}};
static PyMemberDef Ear_members[] = {OBJECT(Ear, rider, 0), {NULL}};

static PyTypeObject EarType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "proxy._hot.Ear",
    .tp_basicsize = sizeof(Ear),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = Ear_dealloc,
    .tp_traverse = Ear_traverse,
    .tp_clear = Ear_clear,
    .tp_methods = Ear_methods,
    .tp_members = Ear_members,
};

/* -- the module --------------------------------------------------------------------------------------------------- */

static PyObject *set_bounds(PyObject *module, PyObject *given) {
    (void)module;
    PyObject *all = PySequence_Fast(given, "expected a sequence of numbers");
    if (!all) return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(all);
    if (count > BOUNDS_MAX) PyErr_SetString(PyExc_ValueError, "too many bounds");
    for (Py_ssize_t i = 0; i < count && !PyErr_Occurred(); i++) bounds[i] = PyFloat_AsDouble(PySequence_Fast_GET_ITEM(all, i));
    bounds_count = PyErr_Occurred() ? 0 : (int)count;
    Py_DECREF(all);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

static PyObject *set_faults(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *client, *upstream;
    if (!PyArg_ParseTuple(args, "OO", &client, &upstream)) return NULL;
    Py_XSETREF(client_fault, Py_NewRef(client));
    Py_XSETREF(upstream_fault, Py_NewRef(upstream));
    Py_RETURN_NONE;
}

static PyObject *set_words(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *watched, *always;
    if (!PyArg_ParseTuple(args, "O!O!", &PyTuple_Type, &watched, &PyTuple_Type, &always)) return NULL;
    words_count = 0;
    memset(begins, 0, sizeof begins);
    for (int list = 0; list < 2; list++) {
        PyObject *given = list ? always : watched;
        if (list) words_watched = words_count;
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(given); i++) {
            char *word;
            Py_ssize_t length;
            if (PyBytes_AsStringAndSize(PyTuple_GET_ITEM(given, i), &word, &length) < 0) return NULL;
            if (words_count == WORDS_MAX || length < 1 || length >= (Py_ssize_t)sizeof words[0]) {
                PyErr_SetString(PyExc_ValueError, "too many words, or one too long");
                return NULL;
            }
            memcpy(words[words_count], word, (size_t)length + 1);
            begins[(uint8_t)word[0]] |= 1u << words_count;
            if (word[0] >= 'a' && word[0] <= 'z') begins[(uint8_t)(word[0] - 32)] |= 1u << words_count;
            word_length[words_count++] = (uint8_t)length;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *set_buffer(PyObject *module, PyObject *given) {
    (void)module;
    Py_buffer view;
    if (PyObject_GetBuffer(given, &view, PyBUF_WRITABLE) < 0) return NULL;
    if (shared.obj) PyBuffer_Release(&shared);
    shared = view;
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"set_bounds", set_bounds, METH_O, "Upper bounds of all histograms."},
    {"set_faults", set_faults, METH_VARARGS, "What to raise for a client's and for an upstream's nonsense."},
    {"set_words", set_words, METH_VARARGS, "(watched, always): words that make a statement worth a look, lower case."},
    {"set_buffer", set_buffer, METH_O, "What every event is received into."},
    {NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "proxy._hot", "The compiled twin of the hot path.", -1, module_methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__hot(void) {
    PyObject *made = PyModule_Create(&module);
    if (!made) return NULL;
    PyTypeObject *types[] = {&HistogramType, &TallyType, &LinkType, &EarType};
    for (int i = 0; i < 4; i++)
        if (PyModule_AddType(made, types[i]) < 0) {
            Py_DECREF(made);
            return NULL;
        }
    return made;
}
