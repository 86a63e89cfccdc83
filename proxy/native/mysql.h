/* The usual events of a MySQL relay: one whole command that is nothing to think about, one whole answer to it.  The twin of
 * what mysql/relay.py and session/mysql_link.py do with them; everything else is handed to these with the bytes received.
 */

enum { MYSQL_WHOLE = 0xFFFFFF, MYSQL_BRIEF = 1024, MYSQL_MORE = 8, MYSQL_IN_TRANSACTION = 0x2001 };

static const uint8_t MYSQL_SPECIAL[256] = { /* commands with another answer than results, or to think about */
    [0x01] = 1, [0x02] = 1, [0x04] = 1, [0x09] = 1, [0x0C] = 1, [0x11] = 1, [0x12] = 1, [0x13] = 1, [0x15] = 1, [0x16] = 1,
    [0x18] = 1, [0x19] = 1, [0x1B] = 1, [0x1C] = 1, [0x1E] = 1, [0xFE] = 1};
static const uint8_t MYSQL_TELLING[256] = { /* how a text begins that may be USE or KILL */
    ['u'] = 1, ['U'] = 1, ['k'] = 1, ['K'] = 1, [' '] = 1, ['\t'] = 1, ['\n'] = 1, ['\r'] = 1, ['\v'] = 1, ['\f'] = 1, ['/'] = 1,
    ['-'] = 1, ['#'] = 1, ['('] = 1, [';'] = 1};

typedef struct {
    PyObject_HEAD
    Tally *tally;
    PyObject *kinds, *held, *backlog, *up_part, *striking;
    long long left, up_left, up_sequence;
    double since, transaction_since;
    int fd, up_fd, owed, status, phase;
    char continues, copying, up_continues, used, eof, plain, draining, big, big_up;
} MysqlRide;

static inline int64_t mysql_length(const uint8_t *at) { return at[0] | at[1] << 8 | at[2] << 16; }

static bool empty_bytes(PyObject *o) { return !o || (PyBytes_Check(o) && !PyBytes_GET_SIZE(o)); }

static bool mysql_plain_command(const uint8_t *buf, int64_t n) {
    if (n < 6 || buf[3] || mysql_length(buf) + 4 != n || MYSQL_SPECIAL[buf[4]]) return false;
    if (buf[4] != 3 || n > MYSQL_BRIEF + 4 || !MYSQL_TELLING[buf[5]]) return true;
    return (buf[5] == 'u' || buf[5] == 'U') && n > 6 && buf[6] != 's' && buf[6] != 'S';
}

/* The status of an OK or EOF packet, or -1 for one that is to be looked at by others. */
static int mysql_status(const uint8_t *at, int64_t length) {
    if (length < 7) return length == 5 ? at[3] | at[4] << 8 : -1;
    const uint8_t *end = at + length;
    at++;
    for (int i = 0; i < 2; i++) {
        if (at >= end) return -1;
        at += *at < 0xFB ? 1 : *at == 0xFC ? 3 : *at == 0xFD ? 4 : 9;
    }
    return at + 2 <= end ? at[0] | at[1] << 8 : -1;
}

/* Behind the rows that begin at `at`: where the first packet is that is no row, or not there as far as must be seen. */
static int64_t mysql_behind_rows(const uint8_t *buf, int64_t at, int64_t n, int *sequence) {
    while (n - at > 4) {
        int64_t length = mysql_length(buf + at);
        if (length == MYSQL_WHOLE || buf[at + 4] >= 0xFE) break;
        *sequence = buf[at + 3];
        at += 4 + length;
    }
    return at;
}

/* Is buf[:n] one whole answer, without an error and with no more results behind it?  Its status, else -1. */
static int mysql_whole_answer(const uint8_t *buf, int64_t n, bool eof, int *sequence) {
    if (n < 9) return -1;
    int64_t length = mysql_length(buf), at = 4 + length;
    uint8_t first = buf[4];
    if (!length || at > n) return -1;
    *sequence = buf[3];
    if (first == 0) {
        int status = at == n ? mysql_status(buf + 4, length) : -1;
        return status & MYSQL_MORE ? -1 : status;
    }
    if (first >= 0xFB || length != 1) return -1;
    for (int columns = first + eof; columns; columns--) {
        if (n - at < 4) return -1;
        length = mysql_length(buf + at);
        if (length == MYSQL_WHOLE || length < 5 || n - at < 4 + length || buf[at + 4] == 0xFF) return -1;
        if (columns == 1 && eof && (buf[at + 4] != 0xFE || buf[at + 7] & 0x40)) return -1; /* a cursor */
        at += 4 + length;
    }
    at = mysql_behind_rows(buf, at, n, sequence);
    if (n - at < 9 || buf[at + 4] != 0xFE) return -1;
    length = mysql_length(buf + at);
    if (at + 4 + length != n || (eof && length >= 9)) return -1;
    *sequence = buf[at + 3];
    int status = mysql_status(buf + at + 4, length);
    return status & MYSQL_MORE ? -1 : status;
}

static PyObject *mysql_slow(PyObject *o, const char *method, long long n) { return PyObject_CallMethod(o, method, "L", n); }

static PyObject *MysqlRide_client_event(PyObject *o, PyObject *unused) {
    (void)unused;
    MysqlRide *self = (MysqlRide *)o;
    if (!self->plain || self->up_fd < 0 || !empty_bytes(self->held) || self->left || self->continues || self->copying)
        return PyObject_CallMethod(o, "on_client", NULL);
    int64_t n = receive(self->fd, self->big);
    if (n <= 0) {
        if (n < 0 && would_block()) Py_RETURN_NONE;
        return mysql_slow(o, "_client_ended", n);
    }
    self->big = n >= BULK;
    self->tally->from_client += n;
    const uint8_t *buf = shared.buf;
    if (!mysql_plain_command(buf, n)) return mysql_slow(o, "_client_bytes", n);
    PyObject *done = PyObject_CallMethod(self->kinds, "append", "i", 0);
    if (!done) return NULL;
    Py_DECREF(done);
    self->used = 1;
    if (!self->owed++) {
        self->since = now();
        if (self->status == 'I') self->transaction_since = self->since;
    }
    int64_t sent = send(self->up_fd, buf, (size_t)n, MSG_NOSIGNAL);
    if (sent == n) Py_RETURN_NONE;
    return mysql_slow(o, "_forward_rest", sent >= 0 ? sent << 32 | n : would_block() ? n : -1);
}

static PyObject *MysqlRide_upstream_event(PyObject *o, PyObject *unused) {
    (void)unused;
    MysqlRide *self = (MysqlRide *)o;
    if (!self->plain || self->up_fd < 0 || !is_none(self->backlog) || self->up_left || !empty_bytes(self->up_part) || self->up_continues ||
        self->phase || self->owed != 1 || !is_none(self->striking))
        return PyObject_CallMethod(o, "on_upstream", NULL);
    int64_t n = receive(self->up_fd, self->big_up);
    if (n <= 0) {
        if (n < 0 && would_block()) Py_RETURN_NONE;
        return PyObject_CallMethod(o, "_upstream_ended", NULL);
    }
    self->big_up = n >= BULK;
    self->tally->from_upstream += n;
    int sequence = 0, status = -1;
    PyObject *kind = PySequence_GetItem(self->kinds, 0);
    if (!kind) return NULL;
    if (PyLong_AsLong(kind) == 0) status = mysql_whole_answer(shared.buf, n, self->eof, &sequence);
    Py_DECREF(kind);
    if (status < 0) return mysql_slow(o, "_upstream_bytes", n);
    PyObject *done = PyObject_CallMethod(self->kinds, "popleft", NULL);
    if (!done) return NULL;
    Py_DECREF(done);
    self->owed = 0;
    self->up_sequence = sequence;
    self->status = status & MYSQL_IN_TRANSACTION ? 'T' : 'I';
    double at = now();
    self->tally->queries++;
    observe(self->tally->query_time, at - self->since);
    if (self->status == 'I') {
        self->tally->transactions++;
        observe(self->tally->transaction_time, at - self->transaction_since);
        self->transaction_since = at;
    }
    self->since = at;
    int64_t sent = send(self->fd, shared.buf, (size_t)n, MSG_NOSIGNAL);
    if (sent < n) return mysql_slow(o, "_to_client_rest", sent >= 0 ? sent << 32 | n : would_block() ? n : -1);
    if (self->draining || !empty_bytes(self->held)) return PyObject_CallMethod(o, "_after_answers", NULL);
    Py_RETURN_NONE;
}

/* mysql_rows(data, at, n) -> at * 256 + sequence: rows are passed over. */
static PyObject *mysql_rows(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    Py_buffer view;
    if (count != 3) return PyErr_SetString(PyExc_TypeError, "mysql_rows(data, at, n)"), NULL;
    long long at = PyLong_AsLongLong(args[1]), n = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred() || PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) return NULL;
    int sequence = 0;
    if (at >= 0 && n <= view.len) at = mysql_behind_rows(view.buf, at, n, &sequence);
    PyBuffer_Release(&view);
    return PyLong_FromLongLong(at * 256 + sequence);
}

static void MysqlRide_dealloc(PyObject *o) {
    MysqlRide *self = (MysqlRide *)o;
    Py_XDECREF(self->tally);
    Py_XDECREF(self->kinds);
    Py_XDECREF(self->held);
    Py_XDECREF(self->backlog);
    Py_XDECREF(self->up_part);
    Py_XDECREF(self->striking);
    Py_TYPE(o)->tp_free(o);
}

/* (tally, kinds, eof): what the events count in, a deque, whether definitions end in an EOF packet. */
static PyObject *MysqlRide_set_up(PyObject *o, PyObject *args) {
    MysqlRide *self = (MysqlRide *)o;
    PyObject *tally, *kinds;
    int eof;
    if (!PyArg_ParseTuple(args, "O!Op", &TallyType, &tally, &kinds, &eof)) return NULL;
    Py_XSETREF(self->tally, (Tally *)Py_NewRef(tally));
    Py_XSETREF(self->kinds, Py_NewRef(kinds));
    self->eof = (char)eof;
    self->status = 'I';
    self->fd = self->up_fd = -1;
    Py_RETURN_NONE;
}

static PyObject *MysqlRide_made(PyTypeObject *type, PyObject *args, PyObject *kwds) {
    (void)args, (void)kwds;
    return type->tp_alloc(type, 0);
}

#define NAMED(type, public, name, kind) {public, kind, offsetof(type, name), 0, NULL}
static PyMemberDef MysqlRide_members[] = {
    OBJECT(MysqlRide, tally, READONLY), OBJECT(MysqlRide, kinds, READONLY), OBJECT(MysqlRide, held, 0), OBJECT(MysqlRide, backlog, 0),
    OBJECT(MysqlRide, striking, 0), NAMED(MysqlRide, "_up_part", up_part, T_OBJECT), NAMED(MysqlRide, "_left", left, T_LONGLONG),
    NAMED(MysqlRide, "_up_left", up_left, T_LONGLONG), NUMBER(MysqlRide, up_sequence), REAL(MysqlRide, since), REAL(MysqlRide, transaction_since),
    COUNT(MysqlRide, fd), COUNT(MysqlRide, up_fd), COUNT(MysqlRide, owed), COUNT(MysqlRide, status), NAMED(MysqlRide, "_phase", phase, T_INT),
    NAMED(MysqlRide, "_continues", continues, T_BOOL), FLAG(MysqlRide, copying), NAMED(MysqlRide, "_up_continues", up_continues, T_BOOL),
    FLAG(MysqlRide, used), {"eof", T_BOOL, offsetof(MysqlRide, eof), READONLY, NULL}, FLAG(MysqlRide, plain), FLAG(MysqlRide, draining),
    FLAG(MysqlRide, big), FLAG(MysqlRide, big_up), {NULL}};

static PyMethodDef MysqlRide_methods[] = {
    {"client_event", MysqlRide_client_event, METH_NOARGS, "The client's socket can be read."},
    {"upstream_event", MysqlRide_upstream_event, METH_NOARGS, "The upstream's socket can be read."},
    {"set_up", MysqlRide_set_up, METH_VARARGS, "(tally, kinds, eof)"},
    {NULL}};

static PyTypeObject MysqlRideType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "proxy._hot.MysqlRide",
    .tp_basicsize = sizeof(MysqlRide),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = MysqlRide_made,
    .tp_dealloc = MysqlRide_dealloc,
    .tp_methods = MysqlRide_methods,
    .tp_members = MysqlRide_members,
};
