"""The metadata service of an instance, version 2: a program that serves a directory.

    imds.py ADDRESS DIRECTORY

A request for ``/latest/PATH`` is answered with the file of that path, or with the names in the
directory, if the request brings a token, which a PUT has given before; otherwise with 401. What a
test writes into the directory later (a spot notice) is there at once. Standard library alone.
"""

from __future__ import annotations

import http.server
import secrets
import sys
from pathlib import Path
from typing import Any

tokens: set[str] = set()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    root = Path()

    def do_PUT(self) -> None:
        """Give a token."""
        if self.path != "/latest/api/token":
            return self._answer(404)
        token = secrets.token_hex(16)
        tokens.add(token)
        return self._answer(200, token.encode())

    def do_GET(self) -> None:
        """Give a file or a listing."""
        if self.headers.get("X-aws-ec2-metadata-token") not in tokens:
            return self._answer(401)
        # Any version of the tree is the latest.
        _, _, path = self.path.strip("/").partition("/")
        found = self.root / path
        if found.is_file():
            return self._answer(200, found.read_bytes())
        if not path or not found.is_dir():
            return self._answer(404)
        names = sorted(each.name + "/" * each.is_dir() for each in found.iterdir())
        return self._answer(200, "\n".join(names).encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Write into the instance's log."""
        print(f"imds: {format % args}", flush=True)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    Handler.root = Path(sys.argv[2])
    http.server.ThreadingHTTPServer((sys.argv[1], 80), Handler).serve_forever()
