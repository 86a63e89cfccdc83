/* Plain numbers that the hot path adds to: the twin of pool/tally.py. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BOUNDS_MAX = 31 };

static double bounds[BOUNDS_MAX];
static int bounds_count;

#define NUMBER(type, name) {#name, T_LONGLONG, offsetof(type, name), 0, NULL}
#define OBJECT(type, name, access) {#name, T_OBJECT, offsetof(type, name), access, NULL}

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
