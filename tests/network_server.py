"""A server on this machine that gives one network, well, cut, and by a redirect."""

import http.server

from running import running


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives `server.content` under /good, /cut (half of it), /moved (by a redirect); nothing elsewhere."""

    def do_GET(self):
        self.server.asked.append(self.path)
        name = self.path.split('/')[1]
        self.send_response({'good': 200, 'cut': 200, 'moved': 302}.get(name, 404))
        body = self.server.content if name in ('good', 'cut') else b''
        if name == 'moved':
            self.send_header('Location', self.path.replace('/moved/', '/good/'))
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body[:len(body) // 2] if name == 'cut' else body)

    def log_message(self, *args):
        pass


def serving(handler):
    """A server on this machine -> the server, with `address`."""
    return running(http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler))
