"""A local double of what clouds offer to a machine: metadata services and the Cloud SQL Admin API."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from proxy.config.target import CloudSqlToken
from proxy.tokens import cloudsql

GOOGLE = CloudSqlToken(instance="example.com:project:europe-west1:db", locate="PUBLIC")


class Metadata(BaseHTTPRequestHandler):
    asked: list[str]
    settings: dict[str, Any]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        body: object = "project"
        if self.path.startswith("/msi"):
            body = {"access_token": "azure-token", "expires_on": "4102444800", "resource": "r", "token_type": "Bearer"}
        elif "/token" in self.path:
            body = {"access_token": "google-token", "expires_in": 3000, "token_type": "Bearer"}
        elif "service-accounts" in self.path:
            body = {"email": "x@y", "aliases": ["default"], "scopes": ["s"]}
        elif self.path == "/sql/v1beta4/projects/example.com:project/instances/db/connectSettings":
            assert self.headers["Authorization"] == "Bearer google-token"
            body = self.settings
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def metadata() -> Iterator[str]:
    """Its address."""
    Metadata.asked, Metadata.settings = [], {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def on_google(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """This process runs on Google's cloud."""
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"):
        monkeypatch.setenv(name, address)
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/nowhere")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr(cloudsql, "API", f"http://{address}")
    cloudsql._credentials.cache_clear()
