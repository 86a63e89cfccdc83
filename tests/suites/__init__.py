"""The clients' own test suites, once directly and once through Switchboard, compared test by test.

Whoever wrote a client knows best what it relies on.  So its own tests are run twice, each time against a new server with the same
databases, users and passwords: at the server's port, and at ours.  What passes at the server and not through us is a fault of ours
and makes the run fail, unless `reasons/<suite>.txt` says why the two cannot be equal.

Suites come by the package index, Debian's sources or Git, pinned by sha256 or commit, and stay in the user's cache folder.
"""
