/* A lease taken and given back without a question: the twin of what Pool.take, Relay._mount, Relay._release and
 * Pool.give_back do for by far the most transactions.  Whatever is not plain is left to them, untouched.
 *
 * Ear is what of an upstream the hot path reads, Lane what of a pool.
 */

typedef struct {
    PyObject_HEAD
    PyObject *rider, *sock, *key, *settings;
    double idle_since, expires;
    long long cancels;
    int fd;
    char tls, reading, broken;
} Ear;

typedef struct {
    PyObject_HEAD
    PyObject *idle, *busy, *queue; /* {key: [upstream]}, {upstream}, the places of those who wait */
    long long idle_count, waiting;
    double now, check_delay;
    char plain;
} Lane;

static PyTypeObject EarType, LaneType;

static inline bool is_none(PyObject *o) { return !o || o == Py_None; }

/* The idle upstreams of a key: borrowed, or NULL. */
static PyObject *shelf(Lane *lane, PyObject *key) {
    if (!lane->idle || !PyDict_Check(lane->idle) || is_none(key)) return NULL;
    PyObject *stack = PyDict_GetItemWithError(lane->idle, key);
    if (!stack) PyErr_Clear();
    return stack && PyList_Check(stack) ? stack : NULL;
}

/* An idle upstream that fits a client as it is: borrowed, or NULL. */
static Ear *fitting(Link *self) {
    Lane *lane = (Lane *)self->pool;
    if (!lane || !PyObject_TypeCheck(lane, &LaneType) || lane->waiting || self->tls || self->leaving || self->drop_left ||
        !is_none(self->place) || !is_none(self->backlog) || !self->held || !PyBytes_CheckExact(self->held) || PyBytes_GET_SIZE(self->held))
        return NULL;
    PyObject *stack = shelf(lane, self->key);
    if (!stack || !PyList_GET_SIZE(stack)) return NULL;
    PyObject *last = PyList_GET_ITEM(stack, PyList_GET_SIZE(stack) - 1);
    if (!PyObject_TypeCheck(last, &EarType)) return NULL;
    Ear *ear = (Ear *)last;
    if (ear->tls || ear->broken || (!is_none(self->settings) && self->settings != ear->settings)) return NULL;
    return lane->now - ear->idle_since < lane->check_delay ? ear : NULL;
}

/* `ear`, the last of its stack, becomes this client's.  0, or -1 with an exception. */
static int mount(Link *self, Ear *ear) {
    Lane *lane = (Lane *)self->pool;
    PyObject *stack = shelf(lane, ear->key);
    Py_INCREF(ear);
    Py_ssize_t last = PyList_GET_SIZE(stack) - 1;
    if (PySet_Add(lane->busy, (PyObject *)ear) < 0 || PyList_SetSlice(stack, last, last + 1, NULL) < 0) {
        Py_DECREF(ear);
        return -1;
    }
    lane->idle_count--;
    Py_XSETREF(self->upstream, (PyObject *)ear);
    Py_XSETREF(self->up, Py_XNewRef(ear->sock));
    self->up_fd = ear->fd;
    Py_XSETREF(ear->rider, Py_NewRef((PyObject *)self));
    self->tally->leases++;
    observe(self->tally->wait_time, 0.0);
    return 0;
}

/* The lease is over: 1 when the upstream is back on its shelf, 0 when that needs thought, -1 with an exception. */
static int dismount(Link *self) {
    Lane *lane = (Lane *)self->pool;
    Ear *ear = (Ear *)self->upstream;
    if (!self->watch || self->draining || self->dirty || !is_none(self->pinned) || !is_none(self->reported) || !lane || !ear ||
        !PyObject_TypeCheck(lane, &LaneType) || !PyObject_TypeCheck(ear, &EarType) || !lane->plain || !ear->reading || ear->cancels ||
        ear->broken || (ear->expires != 0.0 && lane->now > ear->expires) || !lane->queue || PyObject_Size(lane->queue))
        return 0;
    PyObject *stack = shelf(lane, ear->key);
    if (!stack) return 0;
    if (PyList_Append(stack, (PyObject *)ear) < 0 || PySet_Discard(lane->busy, (PyObject *)ear) < 0) return -1;
    lane->idle_count++;
    ear->idle_since = lane->now;
    self->up_fd = -1;
    self->used = 0;
    Py_CLEAR(ear->rider);
    Py_CLEAR(self->up);
    Py_CLEAR(self->upstream);
    return 1;
}
