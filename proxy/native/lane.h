/* A lease taken, waited for, handed on and given back without a question: the twin of what Pool.take, Pool.request,
 * Relay._mount, Relay._release and Pool.give_back do for by far the most transactions.  Whatever is not plain is left to
 * them, untouched.
 *
 * Ear is what of an upstream the hot path reads, Lane what of a pool, Place a client's place in its queue.
 */

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static inline bool would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

typedef struct {
    PyObject_HEAD
    PyObject *rider, *sock, *key, *settings, *prepared;
    double idle_since, expires;
    long long cancels, last_pid;
    int fd;
    char tls, reading, broken;
} Ear;

typedef struct {
    PyObject_HEAD
    PyObject *idle, *busy, *resting, *queue; /* {key: [upstream]}, {upstream}, {upstream}, the places of those who wait */
    PyObject *clock, *alarm;                 /* the loop's time; what wakes the pool when one has waited too long */
    long long idle_count, waiting, coming, size;
    double now, check_delay, used_at, quiet;
    char plain, patient;
} Lane;

typedef struct {
    PyObject_HEAD
    PyObject *waiter, *pool;
    double since;
    char gone, settled, left;
} Place;

static PyTypeObject LinkType, EarType, LaneType, PlaceType;

/* The idle upstreams of a key: borrowed, or NULL. */
static PyObject *shelf(Lane *lane, PyObject *key) {
    if (!lane->idle || !PyDict_Check(lane->idle) || is_none(key)) return NULL;
    PyObject *stack = PyDict_GetItemWithError(lane->idle, key);
    if (!stack) PyErr_Clear();
    return stack && PyList_Check(stack) ? stack : NULL;
}

/* The pool of a client that has nothing held, owed or queued: borrowed, or NULL. */
static Lane *plain_client(Link *self) {
    Lane *lane = (Lane *)self->pool;
    return !lane || !PyObject_TypeCheck(lane, &LaneType) || self->tls || self->leaving || self->drop_left || !is_none(self->place) ||
                   !is_none(self->backlog) || !self->held || !PyBytes_CheckExact(self->held) || PyBytes_GET_SIZE(self->held)
               ? NULL
               : lane;
}

/* An idle upstream that fits a client as it is: borrowed, or NULL. */
static Ear *fitting(Link *self, Lane *lane) {
    if (lane->waiting) return NULL;
    PyObject *stack = shelf(lane, self->key);
    if (!stack || !PyList_GET_SIZE(stack)) return NULL;
    PyObject *last = PyList_GET_ITEM(stack, PyList_GET_SIZE(stack) - 1);
    if (!PyObject_TypeCheck(last, &EarType)) return NULL;
    Ear *ear = (Ear *)last;
    if (ear->tls || ear->broken || (!is_none(self->settings) && self->settings != ear->settings)) return NULL;
    return lane->now - ear->idle_since < lane->check_delay ? ear : NULL;
}

/* `ear` becomes this client's. */
static void seat(Link *self, Ear *ear) {
    Py_XSETREF(self->upstream, Py_NewRef((PyObject *)ear));
    Py_XSETREF(self->up, Py_XNewRef(ear->sock));
    self->up_fd = ear->fd;
    Py_XSETREF(ear->rider, Py_NewRef((PyObject *)self));
    self->tally->leases++;
}

/* `ear`, the last of its stack, becomes this client's.  0, or -1 with an exception. */
static int mount(Link *self, Lane *lane, Ear *ear) {
    PyObject *stack = shelf(lane, ear->key);
    Py_INCREF(ear);
    Py_ssize_t last = PyList_GET_SIZE(stack) - 1;
    if (PySet_Add(lane->busy, (PyObject *)ear) < 0 || PyList_SetSlice(stack, last, last + 1, NULL) < 0) {
        Py_DECREF(ear);
        return -1;
    }
    lane->idle_count--;
    seat(self, ear);
    Py_DECREF(ear);
    observe(self->tally->wait_time, 0.0);
    return 0;
}

/* Is there nothing to give, to dial or to evict, so that a client can only wait? */
static bool only_waiting(Lane *lane) {
    return lane->plain && !lane->idle_count && lane->busy && PyAnySet_Check(lane->busy) && PySet_GET_SIZE(lane->busy) > 0 && lane->resting &&
           PyAnySet_Check(lane->resting) && PySet_GET_SIZE(lane->busy) + PySet_GET_SIZE(lane->resting) + lane->coming >= lane->size &&
           (lane->patient || !is_none(lane->alarm)) && lane->queue && lane->clock;
}

static double clock_of(Lane *lane) {
    PyObject *time = PyObject_CallNoArgs(lane->clock);
    double seconds = time ? PyFloat_AsDouble(time) : -1;
    Py_XDECREF(time);
    return seconds;
}

/* The client's n bytes wait in the queue.  0, or -1 with an exception. */
static int queue_up(Link *self, Lane *lane, const uint8_t *buf, int64_t n) {
    double since = clock_of(lane);
    if (since == -1 && PyErr_Occurred()) return -1;
    PyObject *held = PyBytes_FromStringAndSize((const char *)buf, (Py_ssize_t)n);
    Place *place = held ? (Place *)PlaceType.tp_alloc(&PlaceType, 0) : NULL;
    PyObject *done = NULL;
    if (place) {
        place->waiter = Py_NewRef((PyObject *)self);
        place->pool = Py_NewRef((PyObject *)lane);
        place->since = lane->used_at = since;
        done = PyObject_CallMethod(lane->queue, "append", "O", (PyObject *)place);
    }
    if (done) {
        lane->waiting++;
        if (self->since == 0.0) self->since = now();
        Py_XSETREF(self->held, Py_NewRef(held));
        Py_XSETREF(self->place, Py_NewRef((PyObject *)place));
    }
    Py_XDECREF(held);
    Py_XDECREF(place);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* The first of those who wait, if they can have `ear` as it is: a new reference, or NULL.  What their bytes are called there
 * stands in `out`, if it differs. */
static Place *next_fitting(Lane *lane, Ear *ear) {
    PyObject *first = PySequence_GetItem(lane->queue, 0);
    if (!first) {
        PyErr_Clear();
        return NULL;
    }
    Place *place = (Place *)first;
    Link *waiter = PyObject_TypeCheck(first, &PlaceType) ? (Link *)place->waiter : NULL;
    if (!waiter || !PyObject_TypeCheck(waiter, &LinkType) || place->gone || place->settled || place->left || (!is_none(waiter->settings) && waiter->settings != ear->settings) || !is_none(waiter->waiter) || !waiter->reading || !waiter->swift ||
        waiter->leaving || !is_none(waiter->backlog) || !waiter->held || !PyBytes_CheckExact(waiter->held) || waiter->up_fd >= 0 || ear->tls) {
        Py_DECREF(first);
        return NULL;
    }
    int same = is_none(waiter->key) ? 0 : PyObject_RichCompareBool(waiter->key, ear->key, Py_EQ);
    out_length = 0;
    if (same == 1 && has_quick(waiter) &&
        rename_statements(waiter, ear->prepared, (const uint8_t *)PyBytes_AS_STRING(waiter->held), 0, PyBytes_GET_SIZE(waiter->held)) == MISSING)
        same = 0;
    if (same == 1) return place;
    if (same < 0) PyErr_Clear();
    Py_DECREF(first);
    return NULL;
}

/* Bytes that are not what the client has sent; what the server does not take is kept beside it.  0, or -1 with an exception. */
static int send_or_push(Link *rider, Ear *ear, const uint8_t *data, int64_t length) {
    int64_t sent = length ? send(ear->fd, data, (size_t)length, MSG_NOSIGNAL) : 0;
    if (sent == length || (sent < 0 && !would_block())) return 0; /* of what is lost the reader will see the end */
    if (sent < 0) sent = 0;
    PyObject *pushed = PyObject_CallMethod((PyObject *)ear, "push", "y#", (const char *)data + sent, (Py_ssize_t)(length - sent));
    PyObject *paused = pushed ? PyObject_CallMethod((PyObject *)rider, "pause", NULL) : NULL;
    Py_XDECREF(pushed);
    Py_XDECREF(paused);
    return paused ? 0 : -1;
}

/* `ear`, which stays busy, goes on to who holds `place`, and their bytes to the server.  0, or -1 with an exception. */
static int hand_on(Lane *lane, Ear *ear, Place *place) {
    Link *waiter = (Link *)place->waiter;
    double time = clock_of(lane);
    if (time == -1 && PyErr_Occurred()) return -1;
    PyObject *first = PyObject_CallMethod(lane->queue, "popleft", NULL);
    if (!first) return -1;
    Py_DECREF(first);
    lane->waiting--;
    place->gone = place->settled = 1;
    Py_CLEAR(waiter->place);
    Py_XSETREF(waiter->pool, Py_NewRef((PyObject *)lane));
    observe(waiter->tally->wait_time, time - place->since);
    waiter->granted_at = now();
    seat(waiter, ear);
    PyObject *held = waiter->held;
    waiter->held = PyBytes_FromStringAndSize(NULL, 0);
    int outcome = out_length ? send_or_push(waiter, ear, out, out_length)
                             : send_or_push(waiter, ear, (const uint8_t *)PyBytes_AS_STRING(held), PyBytes_GET_SIZE(held));
    Py_DECREF(held);
    return outcome;
}

/* The lease is over: 1 when the upstream is back on its shelf or with the next, 0 when that needs thought, -1 with an exception. */
static int dismount(Link *self) {
    Lane *lane = (Lane *)self->pool;
    Ear *ear = (Ear *)self->upstream;
    if (!self->watch || self->draining || self->dirty || !is_none(self->pinned) || !is_none(self->reported) || !lane || !ear ||
        !PyObject_TypeCheck(lane, &LaneType) || !PyObject_TypeCheck(ear, &EarType) || !lane->plain || !ear->reading || ear->cancels ||
        ear->broken || (ear->expires != 0.0 && lane->now > ear->expires) || !lane->queue)
        return 0;
    Place *next = NULL;
    if (PyObject_Size(lane->queue)) {
        if (!(next = next_fitting(lane, ear))) return 0;
    } else {
        PyObject *stack = shelf(lane, ear->key);
        if (!stack) return 0;
        if (PyList_Append(stack, (PyObject *)ear) < 0 || PySet_Discard(lane->busy, (PyObject *)ear) < 0) return -1;
        lane->idle_count++;
        ear->idle_since = lane->now;
    }
    self->up_fd = -1;
    self->used = 0;
    if (self->parse) {
        Py_XSETREF(self->former, self->parse);
        self->parse = NULL;
    }
    ear->last_pid = self->pid;
    Py_CLEAR(ear->rider);
    Py_CLEAR(self->up);
    self->upstream = NULL; /* its reference is ours now */
    int outcome = next ? hand_on(lane, ear, next) : 0;
    Py_XDECREF(next);
    Py_DECREF(ear);
    return outcome < 0 ? -1 : 1;
}
