"""An upstream on http.server that reads paths as Java's and WSGI's servers do: decodes once, drops matrix
parameters and dots of a segment's end, resolves dots, knows headers by either spelling (`X_Original_URL`).

One line of the log a request, written before the answer. argv: the log file.
"""

import json
import os
import posixpath
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        body = self._body()
        name = resource(self.command.upper(), understood(self._said("x-original-url") or self.path))
        hit = {
            "resource": name,
            "method": self.command,
            "target": self.path,
            "headers": "\n".join(part for pair in self.headers.items() for part in pair),
            "body": len(body),
        }
        os.write(LOG, (json.dumps(hit) + "\n").encode())
        text = f"served {name}\n".encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer
    do_get = do_Get = do_PROPFIND = _answer

    def _said(self, name: str) -> str | None:
        spelled = {key.lower().replace("_", "-"): value for key, value in self.headers.items()}
        return spelled.get(name)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", "0")))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- http.server's name
        """Nothing: the log is ours."""


def understood(target: str) -> str:
    raw = re.sub(r"^[A-Za-z]+://[^/]*", "", target).split("?")[0].split("#")[0]
    text = unquote(raw, errors="replace").replace("\\", "/")
    segments = [segment.split(";")[0].rstrip(" .") or segment.split(";")[0] for segment in text.split("/")]
    clean = posixpath.normpath("/" + "/".join(segments).lstrip("/"))
    return clean.split("\0")[0]


def resource(method: str, path: str) -> str:
    reads = method in ("GET", "HEAD")
    if path in ("/thing", "/live") and reads:
        return f"paid:{path[1:]}"
    if re.fullmatch(r"/users/[^/]+/report", path) and reads:
        return "paid:report"
    if path == "/items" and method == "POST":
        return "paid:items"
    if path == "/jobs/@me:run":
        return "paid:job"
    if re.match(r"/vault(/|$)", path):
        return "paid:vault"
    if re.match(r"/premium(/|$)", path):
        return "paid:premium"
    return "free"


LOG = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
SERVER = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
SERVER.daemon_threads = True
sys.stdout.write(f"{SERVER.server_port}\n")
sys.stdout.flush()
SERVER.serve_forever()
