/* One event: receive, walk, send.  The twin of relay/pump.py for two plain sockets. */

static Py_buffer shared; /* what every event is received into; given by set_buffer */

static int64_t receive(int fd, char big) {
    Py_ssize_t room = big ? shared.len : shared.len < BULK ? shared.len : BULK;
    return recv(fd, shared.buf, (size_t)room, 0);
}

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

/* A client that was quiet for long asks `select 1` (session/keepalive.py): the relay may know. */
static bool is_keepalive(const Link *self, const uint8_t *buf, int64_t n) {
    const Lane *lane = (const Lane *)self->pool;
    return (n == 14 || (n == 15 && buf[13] == ';')) && buf[0] == 'Q' && !is_none(self->neutral) && lower(buf[5]) == 's' &&
           !memcmp(buf + 11, " 1", 2) && lane && PyObject_TypeCheck(lane, &LaneType) && lane->quiet > 0 && now() - self->since > lane->quiet;
}

/* Outcome, or -1 with an exception. */
static int swift_client(Link *self) {
    int64_t n = receive(self->fd, self->big);
    if (n <= 0) return n == 0 ? CLOSED : would_block() ? 0 : LOST;
    self->big = n >= BULK;
    self->got = n;
    self->sent = 0;
    Lane *lane = NULL;
    Ear *ear = NULL;
    if (self->up_fd < 0) {
        uint8_t first = *(const uint8_t *)shared.buf;
        if (first == 'd' || is_mark(first) || is_keepalive(self, shared.buf, n) || !(lane = plain_client(self)) || (!(ear = fitting(self, lane)) && !only_waiting(lane))) return AWAY;
    }
    Ear *target = ear ? ear : lane ? NULL : (Ear *)self->upstream;
    int names = SAME;
    int64_t begins_at = self->c_left;
    if (target && has_quick(self) && PyObject_TypeCheck(target, &EarType) &&
        (names = rename_statements(self, target->prepared, shared.buf, self->c_left, n)) == MISSING) {
        int64_t left = self->c_left; /* the end of a message that has begun */
        self->tally->from_client += left;
        if (left && walk_client(self, shared.buf, left) < 0) return -1;
        self->cut = left;
        return lane ? THINK | AWAY | WALKED : THINK;
    }
    self->tally->from_client += n;
    int flags = walk_client(self, shared.buf, n);
    if (lane) {
        if (flags < 0) return flags;
        if (flags != BEGAN || !(self->used || self->open || owes(self)) || self->c_left || self->c_part) return flags | AWAY | WALKED;
        if (!ear) return queue_up(self, lane, shared.buf, n);
        if (mount(self, lane, ear) < 0) return -1;
        return names == RENAMED ? send_or_push(self, ear, out, out_length) : forward(self, self->up_fd, n, 0);
    }
    if (flags < 0) return flags;
    if (flags & (TERMINATE | THINK)) {
        if (names != RENAMED || rename_statements(self, target->prepared, shared.buf, begins_at, self->cut) != RENAMED) return flags;
        return send_or_push(self, target, out, out_length) < 0 ? -1 : flags | PUSHED;
    }
    if (names == RENAMED) {
        if (send_or_push(self, target, out, out_length) < 0) return -1;
        flags = 0;
    } else {
        flags = forward(self, self->up_fd, n, 0);
    }
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
    if (outcome == IDLE) {
        int back = dismount(self);
        return back < 0 ? -1 : back ? 0 : IDLE;
    }
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

static PyObject *set_buffer(PyObject *module, PyObject *given) {
    (void)module;
    Py_buffer view;
    if (PyObject_GetBuffer(given, &view, PyBUF_WRITABLE) < 0) return NULL;
    if (shared.obj) PyBuffer_Release(&shared);
    shared = view;
    Py_RETURN_NONE;
}
