/* The compiled twin of the hot path: Histogram and Tally (pool/tally.py), Link (session/link.py), the one event of
 * relay/pump.py for two plain sockets, the Ear of pool/upstream.py, Lane and Place (pool/lane.py), who calls them
 * (net/readers.py), and the usual events of mysql/relay.py.  The Python texts are the specification; tests run both over the same streams.
 *
 * Nothing here decides anything: what needs thought (a statement that could matter, an error, a changed setting) is a
 * call back into the Python methods `_text`, `_error` and `_reported`, or a flag for the relay.
 */
#include "native/numbers.h"
#include "native/link.h"
#include "native/lane.h"
#include "native/event.h"
#include "native/types.h"
#include "native/readers.h"
#include "native/mysql.h"

static PyMethodDef module_methods[] = {
    {"set_bounds", set_bounds, METH_O, "Upper bounds of all histograms."},
    {"set_faults", set_faults, METH_VARARGS, "What to raise for a client's and for an upstream's nonsense."},
    {"set_words", set_words, METH_VARARGS, "(watched, always): words that make a statement worth a look, lower case."},
    {"mysql_rows", (PyCFunction)(void (*)(void))mysql_rows, METH_FASTCALL, "Behind the rows of a result of MySQL."},
    {"set_buffer", set_buffer, METH_O, "What every event is received into."},
    {NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "proxy._hot", "The compiled twin of the hot path.", -1, module_methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__hot(void) {
    PyObject *made = PyModule_Create(&module);
    if (!made) return NULL;
    PyTypeObject *types[] = {&HistogramType, &TallyType, &LinkType, &EarType, &LaneType, &PlaceType, &MysqlRideType,
#ifdef __linux__
                             &ReadersType,
#endif
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (PyModule_AddType(made, types[i]) < 0) {
            Py_DECREF(made);
            return NULL;
        }
    return made;
}
