"""Which certificates end when, for `switchboard_certificate_expiry_time_seconds`.

    listener      the chain that clients are shown              client_ca    authorities of client certificates
    upstream      a plugin's client certificate (ssl.cert)      upstream_ca  authorities of its server (ssl.ca)
    server        what the plugin's server showed us at the last connect, the first of several hosts to end

Files are read when the configuration is: a scrape must not wait for a disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from proxy.config.configuration import Configuration
from proxy.net.expiry import chain_end, ends, ends_in, next_end
from proxy.pool.pool import Pool

Ends = list[tuple[str, str, list[float]]]


def configured(configuration: Configuration) -> Ends:
    """[(which, plugin, ends)] of all that the configuration names."""
    tls = configuration.settings.tls
    found: Ends = []
    if tls.mode != "disable":
        found += [("listener", "", ends_in(tls.certificate))] if tls.certificate else []
        found += [("client_ca", "", ends_in(tls.client_ca))] if tls.client_ca else []
    for target in configuration.targets():
        if target.server is not None:
            found += [(which, target.plugin, ends(text)) for which, text in (
                ("upstream", target.server.tls.cert), ("upstream_ca", target.server.tls.ca)) if text]
    return found


def report(known: Ends, pools: Iterable[Pool]) -> list[dict[str, Any]]:
    """[{which, plugin, not_after}], without those of which nothing can be said."""
    now = time.time()
    rows = [(which, plugin, next_end(found, now) if which.endswith("_ca") else chain_end(found)) for which, plugin, found in known]
    rows += [("server", pool.target.plugin, chain_end(pool.certificates.values())) for pool in pools]
    return [{"which": which, "plugin": plugin, "not_after": last} for which, plugin, last in rows if last is not None]
