"""Genesys Cloud, its login, and the service behind a webhook, in one: prints its port, then answers whatever it is asked."""

import http.server
import json
import zlib

# What it answers, by what it is sent: never a 5xx, so that each one that a caller sees is the service's own.
ANSWERS = [
    (200, "application/json", b'{"done":true}'),
    (200, "text/plain; charset=utf-8", b"done"),
    (201, "application/json", b"[]"),
    (204, None, b""),
    (400, "application/json", b'{"code":"bad.request"}'),
    (404, "text/html", b"<p>gone</p>"),
    (422, "application/problem+json", b'{"title":"no"}'),
]


class Upstream(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/oauth/token":
            token = {"access_token": "token", "token_type": "bearer", "expires_in": 3600}
            self.answer(200, "application/json", json.dumps(token).encode())
        else:
            self.answer(*ANSWERS[zlib.crc32(self.path.encode() + body) % len(ANSWERS)])

    def answer(self, status, content_type, body):
        self.send_response(status)
        if content_type:
            self.send_header("content-type", content_type)
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
print(server.server_address[1], flush=True)
server.serve_forever()
