/* What Python sees: the Link, the Ear of pool/upstream.py (what an upstream hears goes to its rider), the Lane of a pool. */

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
    PyObject *all[] = {self->reported, self->pool, self->settings, self->upstream, self->up, self->place, self->waiter, self->neutral, self->quick};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) Py_VISIT(all[i]);
    return 0;
}

static int Link_clear(PyObject *o) {
    Link *self = (Link *)o;
    PyObject **all[] = {&self->reported, &self->pool, &self->settings, &self->upstream, &self->up, &self->place, &self->waiter, &self->neutral, &self->quick};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) Py_CLEAR(*all[i]);
    return 0;
}

static void Link_dealloc(PyObject *o) {
    Link *self = (Link *)o;
    PyObject_GC_UnTrack(o);
    Link_clear(o);
    Py_XDECREF(self->tally);
    Py_XDECREF(self->pinned);
    Py_XDECREF(self->key);
    Py_XDECREF(self->held);
    Py_XDECREF(self->backlog);
    Py_XDECREF(self->statement);
    Py_XDECREF(self->parse);
    Py_XDECREF(self->former);
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

#define REAL(type, name) {#name, T_DOUBLE, offsetof(type, name), 0, NULL}
#define COUNT(type, name) {#name, T_INT, offsetof(type, name), 0, NULL}
#define FLAG(type, name) {#name, T_BOOL, offsetof(type, name), 0, NULL}
static PyMemberDef Link_members[] = {
    OBJECT(Link, tally, READONLY), OBJECT(Link, pinned, 0), OBJECT(Link, reported, 0), OBJECT(Link, statement, 0),
    OBJECT(Link, pool, 0), OBJECT(Link, key, 0), OBJECT(Link, settings, 0), OBJECT(Link, upstream, 0), OBJECT(Link, up, 0),
    OBJECT(Link, held, 0), OBJECT(Link, place, 0), OBJECT(Link, backlog, 0), OBJECT(Link, waiter, 0), OBJECT(Link, neutral, 0),
    OBJECT(Link, parse, 0), OBJECT(Link, former, 0), OBJECT(Link, quick, 0), NUMBER(Link, drop_left), NUMBER(Link, asked), NUMBER(Link, pid),
    NUMBER(Link, c_left), NUMBER(Link, u_left), NUMBER(Link, cut), NUMBER(Link, got), NUMBER(Link, sent),
    REAL(Link, since), REAL(Link, transaction_since), REAL(Link, granted_at), COUNT(Link, status), COUNT(Link, fd), COUNT(Link, up_fd),
    FLAG(Link, watch), FLAG(Link, open), FLAG(Link, copying), FLAG(Link, dirty), FLAG(Link, used), FLAG(Link, fatal), FLAG(Link, big),
    FLAG(Link, big_up), FLAG(Link, swift), FLAG(Link, tls), FLAG(Link, leaving), FLAG(Link, draining), FLAG(Link, reading), FLAG(Link, skipping), {NULL}};

static PyMethodDef Link_methods[] = {
    {"unwalk", Link_unwalk, METH_NOARGS, "Forget what a client without an upstream has sent."},
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
    Ear *self = (Ear *)o;
    Py_VISIT(self->rider);
    Py_VISIT(self->sock);
    Py_VISIT(self->settings);
    Py_VISIT(self->prepared);
    return 0;
}

static int Ear_clear(PyObject *o) {
    Ear *self = (Ear *)o;
    Py_CLEAR(self->rider);
    Py_CLEAR(self->sock);
    Py_CLEAR(self->settings);
    Py_CLEAR(self->prepared);
    return 0;
}

static void Ear_dealloc(PyObject *o) {
    PyObject_GC_UnTrack(o);
    Ear_clear(o);
    Py_XDECREF(((Ear *)o)->key);
    Py_TYPE(o)->tp_free(o);
}

static PyMethodDef Ear_methods[] = {{"on_readable", Ear_on_readable, METH_NOARGS, "The upstream's socket can be read."}, {NULL}};
static PyMemberDef Ear_members[] = {
    OBJECT(Ear, rider, 0), OBJECT(Ear, sock, 0), OBJECT(Ear, key, 0), OBJECT(Ear, settings, 0), OBJECT(Ear, prepared, 0), REAL(Ear, idle_since), REAL(Ear, expires),
    NUMBER(Ear, cancels), NUMBER(Ear, last_pid), COUNT(Ear, fd), FLAG(Ear, tls), FLAG(Ear, reading), FLAG(Ear, broken), {NULL}};

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

/* -- Lane and Place: a pool and its queue ---------------------------------------------------------------------------- */

static int Lane_traverse(PyObject *o, visitproc visit, void *arg) {
    Lane *self = (Lane *)o;
    PyObject *all[] = {self->idle, self->busy, self->resting, self->queue, self->clock, self->alarm};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) Py_VISIT(all[i]);
    return 0;
}

static int Lane_clear(PyObject *o) {
    Lane *self = (Lane *)o;
    PyObject **all[] = {&self->idle, &self->busy, &self->resting, &self->queue, &self->clock, &self->alarm};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) Py_CLEAR(*all[i]);
    return 0;
}

static void Lane_dealloc(PyObject *o) {
    PyObject_GC_UnTrack(o);
    Lane_clear(o);
    Py_TYPE(o)->tp_free(o);
}

static PyMemberDef Lane_members[] = {
    OBJECT(Lane, idle, 0), OBJECT(Lane, busy, 0), OBJECT(Lane, resting, 0), OBJECT(Lane, queue, 0), OBJECT(Lane, clock, 0),
    OBJECT(Lane, alarm, 0), NUMBER(Lane, idle_count), NUMBER(Lane, waiting), NUMBER(Lane, coming), NUMBER(Lane, size), REAL(Lane, now),
    REAL(Lane, check_delay), REAL(Lane, used_at), REAL(Lane, quiet), FLAG(Lane, plain), FLAG(Lane, patient), {NULL}};

static PyTypeObject LaneType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "proxy._hot.Lane",
    .tp_basicsize = sizeof(Lane),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = Lane_dealloc,
    .tp_traverse = Lane_traverse,
    .tp_clear = Lane_clear,
    .tp_members = Lane_members,
};

static int Place_init(PyObject *o, PyObject *args, PyObject *kwds) {
    static char *names[] = {"waiter", "since", "pool", NULL};
    Place *self = (Place *)o;
    PyObject *waiter, *pool;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "OdO", names, &waiter, &self->since, &pool)) return -1;
    Py_XSETREF(self->waiter, Py_NewRef(waiter));
    Py_XSETREF(self->pool, Py_NewRef(pool));
    return 0;
}

static int Place_traverse(PyObject *o, visitproc visit, void *arg) {
    Py_VISIT(((Place *)o)->waiter);
    Py_VISIT(((Place *)o)->pool);
    return 0;
}

static int Place_clear(PyObject *o) {
    Py_CLEAR(((Place *)o)->waiter);
    Py_CLEAR(((Place *)o)->pool);
    return 0;
}

static void Place_dealloc(PyObject *o) {
    PyObject_GC_UnTrack(o);
    Place_clear(o);
    Py_TYPE(o)->tp_free(o);
}

static PyMemberDef Place_members[] = {
    OBJECT(Place, waiter, 0), OBJECT(Place, pool, 0), REAL(Place, since), FLAG(Place, gone), FLAG(Place, settled), FLAG(Place, left), {NULL}};

static PyTypeObject PlaceType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "proxy._hot.Place",
    .tp_basicsize = sizeof(Place),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = Place_init,
    .tp_dealloc = Place_dealloc,
    .tp_traverse = Place_traverse,
    .tp_clear = Place_clear,
    .tp_members = Place_members,
};
