"""A server on this machine that answers downloads well, badly and by halves."""

import http.server
import time

from running import running

WHOLE = 'Mon, 01 Jan 2024 00:00:00 GMT'


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files` {path: bytes}. `server.ranges` says how it treats a Range: 'yes', 'ignored' (the whole
    file), 'limited' (to 1000 bytes), 'wrong' (from another byte), 'refused' (416). `server.cuts` bytes are sent by each
    of the next answers before they break off. `server.headers` replaces headers, None removes one. `server.stops`
    {path: bytes after which nothing comes until the server ends}."""

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get('Range')))
        if self.path in server.moved:
            return self._answer(302, b'', {'Location': server.moved[self.path]})
        body = server.files.get(self.path)
        if body is None:
            return self._answer(404, b'nothing here', {'Content-Type': 'text/plain'})
        asked = self.headers.get('Range')
        same = self.headers.get('If-Range') in (None, server.headers.get('ETag'),
                                                server.headers.get('Last-Modified', WHOLE))
        if asked is None or server.ranges == 'ignored' or not same:
            return self._answer(200, body, {})
        first = int(asked.removeprefix('bytes=').removesuffix('-')) + (7 if server.ranges == 'wrong' else 0)
        if first >= len(body) or server.ranges == 'refused':
            return self._answer(416, b'', {'Content-Range': f'bytes */{len(body)}'})
        part = body[first:first + 1000] if server.ranges == 'limited' else body[first:]
        self._answer(206, part, {'Content-Range': f'bytes {first}-{first + len(part) - 1}/{len(body)}'})

    def _answer(self, status, body, headers):
        self.send_response(status)
        headers = {'Content-Length': str(len(body)), 'Content-Type': 'application/octet-stream',
                   'Last-Modified': WHOLE, **headers, **(self.server.headers if status in (200, 206) else {})}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if stop := self.server.stops.get(self.path):
            self.wfile.write(body[:stop])
            while self.server.stops and not self.server.ended:
                time.sleep(0.01)
            return
        self.wfile.write(body[:self.server.cuts.pop(0)] if self.server.cuts and status in (200, 206) else body)

    def log_message(self, *args):
        pass


def serving():
    """-> the server, with `address`; everything else of it may be set at any time."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.files, server.moved, server.headers, server.cuts, server.asked, server.ranges = {}, {}, {}, [], [], 'yes'
    server.stops, server.ended = {}, False
    return running(server)
