/* The readers of a loop, many behind one: an epoll of our own inside one reader of the loop's.
 *
 * An event then costs a call from a table, not a handle and a context of the loop's.  A round serves at most BATCH
 * sockets, so that timers and everything else of the loop have their turn; epoll is level triggered and tells the rest again.
 * Linux only; elsewhere the type is not there and net/readers.py uses the loop itself.
 */
#ifdef __linux__
#include <sys/epoll.h>
#include <unistd.h>

enum { BATCH = 64, MOST_FDS = 1 << 24 };

typedef struct {
    PyObject_HEAD
    PyObject **callbacks; /* by fd; NULL: not registered */
    PyObject *complain;   /* called with what a callback raised */
    int size, fd;
} Readers;

static int Readers_init(PyObject *o, PyObject *args, PyObject *kwds) {
    static char *names[] = {"complain", NULL};
    Readers *self = (Readers *)o;
    PyObject *complain;
    if (self->complain) return PyErr_SetString(PyExc_TypeError, "made twice"), -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O", names, &complain)) return -1;
    self->fd = epoll_create1(EPOLL_CLOEXEC);
    if (self->fd < 0) return PyErr_SetFromErrno(PyExc_OSError), -1;
    self->complain = Py_NewRef(complain);
    return 0;
}

static bool make_room(Readers *self, int fd) {
    if (fd < self->size) return true;
    int size = fd < 512 ? 1024 : fd * 2;
    PyObject **more = fd < MOST_FDS ? PyMem_Resize(self->callbacks, PyObject *, (size_t)size) : NULL;
    if (!more) return PyErr_NoMemory(), false;
    memset(more + self->size, 0, sizeof *more * (size_t)(size - self->size));
    self->callbacks = more;
    self->size = size;
    return true;
}

static PyObject *Readers_add(PyObject *o, PyObject *const *args, Py_ssize_t count) {
    Readers *self = (Readers *)o;
    long fd = count == 2 ? PyLong_AsLong(args[0]) : -1;
    if (fd < 0 || fd > INT_MAX || self->fd < 0) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "add(fd, callback), of open readers");
        return NULL;
    }
    if (!make_room(self, (int)fd)) return NULL;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = (int)fd};
    if (epoll_ctl(self->fd, EPOLL_CTL_ADD, (int)fd, &event) < 0 && errno != EEXIST) return PyErr_SetFromErrno(PyExc_OSError);
    Py_XSETREF(self->callbacks[fd], Py_NewRef(args[1]));
    Py_RETURN_NONE;
}

static PyObject *Readers_remove(PyObject *o, PyObject *number) {
    Readers *self = (Readers *)o;
    long fd = PyLong_AsLong(number);
    if (fd == -1 && PyErr_Occurred()) return NULL;
    if (fd < 0 || fd >= self->size || !self->callbacks[fd]) Py_RETURN_FALSE;
    struct epoll_event unused = {0};
    epoll_ctl(self->fd, EPOLL_CTL_DEL, (int)fd, &unused); /* a closed one has left by itself */
    Py_CLEAR(self->callbacks[fd]);
    Py_RETURN_TRUE;
}

/* What the loop calls.  A callback may remove others of its round, and a number may come back as another socket: that one
 * is called for nothing, finds nothing to read, and that is all. */
static PyObject *Readers_turn(PyObject *o, PyObject *unused) {
    (void)unused;
    Readers *self = (Readers *)o;
    struct epoll_event events[BATCH];
    int count = self->fd < 0 ? 0 : epoll_wait(self->fd, events, BATCH, 0);
    for (int i = 0; i < count; i++) {
        int fd = events[i].data.fd;
        PyObject *callback = fd < self->size ? self->callbacks[fd] : NULL;
        if (!callback) continue;
        Py_INCREF(callback);
        PyObject *done = PyObject_CallNoArgs(callback);
        Py_DECREF(callback);
        if (!done) {
            PyObject *type, *fault, *trace;
            PyErr_Fetch(&type, &fault, &trace);
            PyErr_NormalizeException(&type, &fault, &trace);
            if (trace) PyException_SetTraceback(fault, trace);
            bool ends = !PyErr_GivenExceptionMatches(type, PyExc_Exception); /* KeyboardInterrupt is the loop's */
            if (ends) {
                PyErr_Restore(type, fault, trace);
                return NULL;
            }
            done = PyObject_CallFunctionObjArgs(self->complain, fault, NULL);
            Py_XDECREF(type);
            Py_XDECREF(fault);
            Py_XDECREF(trace);
            if (!done) return NULL;
        }
        Py_DECREF(done);
    }
    Py_RETURN_NONE;
}

static PyObject *Readers_fileno(PyObject *o, PyObject *unused) {
    (void)unused;
    return PyLong_FromLong(((Readers *)o)->fd);
}

static int Readers_traverse(PyObject *o, visitproc visit, void *arg) {
    Readers *self = (Readers *)o;
    for (int i = 0; i < self->size; i++) Py_VISIT(self->callbacks[i]);
    Py_VISIT(self->complain);
    return 0;
}

static int Readers_clear(PyObject *o) {
    Readers *self = (Readers *)o;
    for (int i = 0; i < self->size; i++) Py_CLEAR(self->callbacks[i]);
    Py_CLEAR(self->complain);
    return 0;
}

static PyObject *Readers_close(PyObject *o, PyObject *unused) {
    (void)unused;
    Readers *self = (Readers *)o;
    if (self->fd >= 0) close(self->fd);
    self->fd = -1;
    for (int i = 0; i < self->size; i++) Py_CLEAR(self->callbacks[i]);
    Py_RETURN_NONE;
}

static PyObject *Readers_new(PyTypeObject *type, PyObject *args, PyObject *kwds) {
    PyObject *made = PyType_GenericNew(type, args, kwds);
    if (made) ((Readers *)made)->fd = -1;
    return made;
}

static void Readers_dealloc(PyObject *o) {
    Readers *self = (Readers *)o;
    PyObject_GC_UnTrack(o);
    Readers_clear(o);
    PyMem_Free(self->callbacks);
    if (self->fd >= 0) close(self->fd);
    Py_TYPE(o)->tp_free(o);
}

static PyMethodDef Readers_methods[] = {
    {"add", (PyCFunction)(void (*)(void))Readers_add, METH_FASTCALL, "Call callback() whenever fd can be read."},
    {"remove", Readers_remove, METH_O, "No longer; was it there?"},
    {"turn", Readers_turn, METH_NOARGS, "Serve those that can be read now."},
    {"fileno", Readers_fileno, METH_NOARGS, "Readable when one of them is."},
    {"close", Readers_close, METH_NOARGS, "Forget all."},
    {NULL}};

static PyTypeObject ReadersType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "proxy._hot.Readers",
    .tp_basicsize = sizeof(Readers),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = Readers_new,
    .tp_init = Readers_init,
    .tp_dealloc = Readers_dealloc,
    .tp_traverse = Readers_traverse,
    .tp_clear = Readers_clear,
    .tp_methods = Readers_methods,
};
#endif
