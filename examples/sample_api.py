"""A small API that knows nothing of payments: what the demo puts a price on. Standard library only.

python examples/sample_api.py [--port 4499]      prints its URL when it serves
"""

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

QUOTES = {"ACME": "41.20", "INITECH": "7.75", "HOOLI": "120.00"}


class SampleApi(BaseHTTPRequestHandler):
    """GET /v1/quotes/{symbol}, POST /v1/summaries, GET /v1/symbols."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/v1/symbols":
            self._answer(200, {"symbols": sorted(QUOTES)})
        elif path.startswith("/v1/quotes/") and (symbol := path.removeprefix("/v1/quotes/").upper()) in QUOTES:
            self._answer(200, {"symbol": symbol, "price": QUOTES[symbol]})
        else:
            self._answer(404, {"error": "no such thing here"})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length).decode(errors="replace")
        if urlsplit(self.path).path == "/v1/summaries":
            self._answer(200, {"summary": " ".join(text.split()[:8]), "words": len(text.split())})
        else:
            self._answer(404, {"error": "no such thing here"})

    def _answer(self, status: int, document: dict[str, object]) -> None:
        body = json.dumps(document).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say who paid, which only the gateway knows and tells."""
        payer = self.headers.get("X-Mpp-Payer", "nobody") if hasattr(self, "headers") else "nobody"
        sys.stderr.write(f"sample API: {format % args}, paid by {payer}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="A small API without any payments.")
    parser.add_argument("--port", type=int, default=4499, help="0: chosen by the system")
    server = ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), SampleApi)
    server.daemon_threads = True
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
