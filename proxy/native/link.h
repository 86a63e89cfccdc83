/* The two walks over the bytes of a client riding a lease: the twin of session/link.py. */

enum { IDLE = 1, TERMINATE = 2, THINK = 4, BEGAN = 8, SHORT = 16, CLOSED = 32, LOST = 64, AWAY = 128, BROKEN = 256, SETTLE = 512, WALKED = 1024, PUSHED = 2048 };
enum { NOTHING, REQUEST, PARSE, OPEN, BYE, COPY, COPY_END, FLUSH };
enum { BULK = 16384, SMALL_MESSAGE = 4096, LONGEST_STATUS = 65536 };

static const uint8_t KIND[256] = {
    ['Q'] = REQUEST, ['S'] = REQUEST, ['F'] = REQUEST, ['P'] = PARSE, ['X'] = BYE, ['d'] = COPY, ['c'] = COPY_END, ['f'] = COPY_END,
    ['B'] = OPEN, ['D'] = OPEN, ['E'] = OPEN, ['C'] = OPEN, ['H'] = FLUSH};

static PyObject *client_fault, *upstream_fault;
enum { WORDS_MAX = 31 }; /* so that shifting by their number is defined */
static char words[WORDS_MAX][24]; /* a text with none of these has no consequences; lower case */
static uint8_t word_length[WORDS_MAX];
static uint32_t begins[256]; /* by letter: a bit for each word that begins with it */
static int words_count, words_watched; /* the first `words_watched` matter only when the link watches */

typedef struct {
    PyObject_HEAD
    Tally *tally;
    PyObject *pinned, *reported, *statement, *c_part, *u_part; /* the parts: bytes, or NULL for none */
    PyObject *pool, *key, *settings, *upstream, *up, *held, *place, *backlog, *waiter; /* the relay's own */
    PyObject *neutral, *parse, *former; /* keen: a set of texts that pass; what made the unnamed statement on this lease, on one before */
    PyObject *quick;                    /* keen: the client's prepared statements that pass, by its names */
    uint8_t *owed;                                             /* a queue: owed[owed_at .. owed_end] */
    uint32_t owed_at, owed_end, owed_size;
    long long c_left, u_left, cut, got, sent, drop_left, asked, pid;
    double since, transaction_since, granted_at;
    int status, fd, up_fd;
    char watch, open, copying, dirty, used, fatal, big, big_up, swift, tls, leaving, draining, reading, skipping;
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

static inline uint32_t big_endian(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline bool is_none(PyObject *o) { return !o || o == Py_None; }

/* May this text pass?  1, 0, or -1 with an exception. */
static int passes(Link *self, const uint8_t *text, int64_t length) {
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)text, (Py_ssize_t)length);
    int found = bytes ? PySet_Contains(self->neutral, bytes) : -1;
    if (found == 0) {
        PyObject *answer = PyObject_CallMethod((PyObject *)self, "_judge", "O", bytes);
        found = answer ? PyObject_IsTrue(answer) : -1;
        Py_XDECREF(answer);
    }
    Py_XDECREF(bytes);
    return found;
}

/* The name of a prepared statement that a Bind or Describe speaks of; NULL where there is none, or it has not come whole. */
static const uint8_t *statement_name(const uint8_t *message, const uint8_t *end, int64_t *length) {
    const uint8_t *name = NULL;
    if (message + 6 >= end) return NULL;
    if (message[0] == 'B') {
        name = memchr(message + 5, 0, (size_t)(end - message - 5));
        if (!name || ++name >= end) return NULL;
    } else if (message[0] == 'D' && message[5] == 'S') {
        name = message + 6;
    }
    const uint8_t *zero = name ? memchr(name, 0, (size_t)(end - name)) : NULL;
    if (!zero) return NULL;
    *length = zero - name;
    return name;
}

/* What the servers call the client's statement of that name: borrowed, or NULL. */
static PyObject *quick_name(Link *self, const uint8_t *name, int64_t length) {
    PyObject *key = PyBytes_FromStringAndSize((const char *)name, (Py_ssize_t)length);
    PyObject *found = key ? PyDict_GetItemWithError(self->quick, key) : NULL;
    Py_XDECREF(key);
    if (!found) PyErr_Clear();
    return found && PyBytes_CheckExact(found) ? found : NULL;
}

static inline bool has_quick(const Link *self) { return self->quick && PyDict_Check(self->quick) && PyDict_GET_SIZE(self->quick) > 0; }

enum { SAME, RENAMED, MISSING };
static uint8_t out[262144 + 65536];
static int64_t out_length;

/* Whole messages from `at` on as a server that has these `prepared` is to see them: RENAMED, and they are in `out`; SAME; or
 * MISSING: something would have to be prepared first. */
static int rename_statements(Link *self, PyObject *prepared, const uint8_t *buf, int64_t at, int64_t n) {
    int64_t copied = 0;
    out_length = 0;
    while (at + 5 <= n) {
        uint32_t size = big_endian(buf + at + 1);
        int64_t end = at + size + 1, length = 0;
        if (size < 4) break;
        const uint8_t *name = statement_name(buf + at, buf + (end < n ? end : n), &length);
        PyObject *server = name && length ? quick_name(self, name, length) : NULL;
        if (server) {
            if (!prepared || !PyDict_Check(prepared) || PyDict_Contains(prepared, server) != 1) {
                PyErr_Clear();
                return MISSING;
            }
            int64_t before = (name - buf) - copied, more = PyBytes_GET_SIZE(server);
            if (out_length + before + more + (n - copied) > (int64_t)sizeof out) return MISSING;
            memcpy(out + out_length, buf + copied, (size_t)before);
            uint8_t *header = out + out_length + (at - copied);
            uint32_t renamed = size - (uint32_t)length + (uint32_t)more;
            for (int i = 0; i < 4; i++) header[1 + i] = (uint8_t)(renamed >> (24 - 8 * i));
            memcpy(out + out_length + before, PyBytes_AS_STRING(server), (size_t)more);
            out_length += before + more;
            copied = (name - buf) + length;
        }
        at = end;
    }
    if (!copied) return SAME;
    memcpy(out + out_length, buf + copied, (size_t)(n - copied));
    out_length += n - copied;
    return RENAMED;
}

static bool passes_by_name(Link *self, const uint8_t *message, const uint8_t *end) {
    int64_t length = 0;
    const uint8_t *name = has_quick(self) ? statement_name(message, end, &length) : NULL;
    return name && quick_name(self, name, length);
}

/* Keen: does this message need thought?  1, 0, or -1 with an exception. */
static int stops(Link *self, const uint8_t *buf, int64_t at, int64_t n, uint8_t tag, int64_t end) {
    const uint8_t *name;
    int64_t here = end < n ? end : n;
    switch (tag) {
    case 'Q':
        Py_CLEAR(self->parse); Py_CLEAR(self->former); /* the server forgets it too */
        if (end > n || end < at + 6) return 1;
        int passed = passes(self, buf + at + 5, end - 1 - (at + 5));
        return passed < 0 ? -1 : !passed;
    case 'P':
        if (end > n || end < at + 8 || buf[at + 5] || (self->asked && !is_none(self->parse))) return 1; /* the last may stay */
        if (!(name = memchr(buf + at + 6, 0, (size_t)(end - at - 6)))) return 1;
        int passing = passes(self, buf + at + 6, name - (buf + at + 6));
        if (passing <= 0) return passing < 0 ? -1 : 1;
        if (keep_part(&self->parse, buf + at, end - at) < 0) return -1;
        break;
    case 'B':
        if (here <= at + 5 || !(name = memchr(buf + at + 5, 0, (size_t)(here - at - 5)))) return 1;
        if (++name >= buf + here) return 1;
        if (*name ? !passes_by_name(self, buf + at, buf + here) : is_none(self->parse)) return 1;
        break;
    case 'D':
    case 'C':
        if (at + 7 > n || end < at + 7) return 1;
        if (buf[at + 5] == 'S' &&
            (tag == 'C' || (buf[at + 6] ? !passes_by_name(self, buf + at, buf + here) : is_none(self->parse))))
            return 1;
        break;
    case 'F': return 1;
    default: return 0;
    }
    if (!self->skipping) self->asked++;
    return 0;
}

static inline bool is_answer(uint8_t tag) {
    return tag == '1' || tag == '2' || tag == '3' || tag == 'n' || tag == 'T' || tag == 'C' || tag == 'I' || tag == 's';
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
        bool keen = !is_none(self->neutral);
        if (keen && (more = stops(self, buf, at, n, tag, end))) {
            if (more < 0) return -1;
            self->cut = at;
            self->c_left = 0;
            return flags | THINK;
        }
        switch (KIND[tag]) {
        case REQUEST:
            if (tag == 'Q' && !keen && (more = statement_text(self, buf, at + 5, end, n)) < 0) return -1;
            flags |= more;
            if (!owes(self)) {
                self->since = now();
                if (self->status == 'I') self->transaction_since = self->since;
            }
            if (tag != 'S') {
                if (!owe(self, tag)) return -1;
            } else {
                self->open = self->skipping = 0;
                self->asked = 0;
                if (!self->copying && !owe(self, tag)) return -1;
            }
            self->used = 1;
            break;
        case OPEN:
            self->open = 1;
            if (tag == 'E' && !self->skipping) self->asked++;
            break;
        case PARSE:
            self->open = 1;
            if (keen) break;
            if ((more = statement_text(self, buf, at + 5, end, n)) < 0) return -1;
            flags |= more;
            if (self->watch && (!self->pinned || self->pinned == Py_None) && (at + 5 >= n || buf[at + 5])) {
                PyObject *done = PyObject_CallMethod((PyObject *)self, "pin", "s", "prepared statement");
                Py_XDECREF(done);
                if (!done) return -1;
            }
            break;
        case COPY:
        case FLUSH:
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
    if (at < n && !is_none(self->neutral)) {
        self->cut = at; /* whose first bytes have gone cannot be held back any more */
        return flags | THINK;
    }
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
            } else if (self->watch && is_none(self->neutral) && n - at >= 9 && (!memcmp(buf + at + 5, "SET", 4) || !memcmp(buf + at + 5, "RESE", 4))) {
                self->dirty = 1;
            }
        } else if (tag == 'G') {
            copy_in(self);
        }
        if (self->asked && is_answer(tag) && !owes(self)) self->asked--;
        at = end;
    }
    self->u_left = at > n ? at - n : 0;
    if (at < n) {
        flags = 0;
        if (keep_part(&self->u_part, buf + at, n - at) < 0) return -1;
    }
    return flags;
}

/* Forget what a client without an upstream has sent: it will be looked at once more. */
static PyObject *Link_unwalk(PyObject *o, PyObject *unused) {
    (void)unused;
    Link *self = (Link *)o;
    self->owed_at = self->owed_end = 0;
    self->open = self->skipping = 0;
    self->asked = self->c_left = 0;
    Py_CLEAR(self->c_part);
    Py_RETURN_NONE;
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
