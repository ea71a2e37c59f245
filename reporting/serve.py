"""A server for this machine alone: all runs of a folder, as they are now. It serves pages that it makes, no files."""

import hashlib
import http.server
import json
import os
import sys
import urllib.parse
from collections import OrderedDict

from dnnlib import UserError, ports

from . import compare_page, facts, measured, page, pictures, run_folder, run_page
from .numbers import with_interval

HOST, PORT = '127.0.0.1', 8765
LOOK_EVERY = 10                 # seconds after which a page asks again whether something is new
LOOK_BACK = 3                   # latest grids to try: the last may be half written
MOST_PICTURES = 1000            # latest pictures that are kept for browsers
TYPES = dict(html='text/html; charset=utf-8', css='text/css; charset=utf-8', js='text/javascript; charset=utf-8',
             txt='text/plain; charset=utf-8', jpg='image/jpeg')
POLICY = ("default-src 'none'; base-uri 'none'; form-action 'self'; img-src 'self'; style-src 'self'; "
          "script-src 'self'; connect-src 'self'")


class Served:
    """Pictures, style and script by addresses of the server; that of a picture depends on its content, so browsers may
    keep it."""

    def __init__(self):
        self.kept = OrderedDict()

    def picture(self, _name, jpeg):
        name = f'{hashlib.sha256(jpeg).hexdigest()[:32]}.jpg'
        self.kept[name] = jpeg
        self.kept.move_to_end(name)
        while len(self.kept) > MOST_PICTURES:
            self.kept.popitem(last=False)
        return f'/picture/{name}'

    def head(self):
        return dict(policy=POLICY, style_url=f'/{page.STYLE_FILE}', script_url=f'/{page.SCRIPT_FILE}')


class Site:
    """The content at each address. Names in addresses are looked up among the runs of the folder, and never opened as
    paths."""

    def __init__(self, folder):
        self.folder = folder
        self.served = Served()

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[str, str | bytes] | None:
        """-> (kind of content, content: text, or bytes of a picture); None if there is nothing at this address.

        Args:
            path:  with its %-codes resolved.
            query: {name: values}.
        Raises: UserError if a run cannot be shown.
        """
        parts = path.removeprefix('/').split('/')
        runs = self.runs()
        match parts:
            case ['']:
                return 'html', self._index(runs)
            case ['favicon.ico']:                       # browsers ask for it
                return 'txt', ''
            case [page.STYLE_FILE]:
                return 'css', page.asset('style')
            case [page.SCRIPT_FILE]:
                return 'js', page.asset('script')
            case ['picture', name] if name in self.served.kept:
                return 'jpg', self.served.kept[name]
            case ['run', name] if name in runs:
                return 'html', run_page.make(self._read(runs[name]), self.served, live([runs[name]]))
            case ['compare'] | ['stamp'] if all(name in runs for name in query.get('run', [])):
                folders = [runs[name] for name in dict.fromkeys(query.get('run', []))]
                return ('txt', stamp(folders)) if parts == ['stamp'] else ('html', self._comparison(folders))
        return None

    def runs(self) -> dict[str, str]:
        """{name: folder} of the runs in the folder, the latest first. Links that lead out of it are not followed."""
        with os.scandir(self.folder) as entries:
            found = {entry.name: entry.path for entry in entries if entry.is_dir() and self._is_inside(entry.path)}
        return {name: found[name] for name in sorted(found, reverse=True) if run_folder.is_run(found[name])}

    def _is_inside(self, path):
        root = os.path.realpath(self.folder)
        return os.path.commonpath([root, os.path.realpath(path)]) == root

    def _read(self, folder):
        """Raises UserError if something in the folder of a run is a link to elsewhere."""
        for place, folders, names in os.walk(folder):
            out = next((name for name in (*folders, *names) if not self._is_inside(os.path.join(place, name))), None)
            if out is not None:
                raise UserError(f'{os.path.basename(folder)}: {out} is a link that leads out of the folder that is '
                                'served; python report.py RUN makes a page of this run')
        return run_folder.read(folder)

    def _comparison(self, folders):
        if not 2 <= len(folders) <= compare_page.MOST_RUNS:
            raise UserError(f'{len(folders)} runs are ticked; tick 2 to {compare_page.MOST_RUNS} of them')
        return compare_page.make([self._read(folder) for folder in folders], self.served, live(folders))

    def _index(self, runs):
        rows = [self._row(name, folder) for name, folder in runs.items()]
        data = dict(kind='index', live=live(list(runs.values())))
        return page.render('index.html', self.served, data, runs=rows,
                           folder=os.path.basename(os.path.realpath(self.folder)))

    def _row(self, name, folder):
        row = dict(name=name, address=f'/run/{urllib.parse.quote(name, safe="", errors="surrogateescape")}')
        try:
            run = self._read(folder)
        except UserError as err:
            return dict(row, head=None, picture=None, problem=str(err))
        sheets = (pictures.sheet(run, name) for _, name in reversed(run.frames[-LOOK_BACK:]))
        jpeg = next((sheet for sheet in sheets if sheet is not None), None)
        group = next(iter(measured.by_protocol(run.metrics).values()), None)
        return dict(row, head=facts.progress(run), picture=None if jpeg is None else self.served.picture('', jpeg),
                    metric=None if group is None else f'{group.metric} {with_interval(group.last)}')


def live(folders: list[str]) -> dict:
    """For the script of a page about these runs: where it asks whether something is new, and the answer so far."""
    query = urllib.parse.urlencode([('run', os.path.basename(folder)) for folder in folders], errors='surrogateescape')
    return dict(address=f'/stamp?{query}', stamp=stamp(folders), every=LOOK_EVERY)


def stamp(folders: list[str]) -> str:
    """A value that changes as soon as something in these folders of runs is new."""
    seen = []
    for folder in folders:
        with os.scandir(folder) as entries:
            seen += sorted((entry.name, entry.stat().st_mtime_ns) for entry in entries
                           if entry.is_file() and entry.name != run_folder.PAGE_FILE)
    return hashlib.sha256(json.dumps([folders, seen]).encode()).hexdigest()[:32]


class Handler(http.server.BaseHTTPRequestHandler):
    server_version, sys_version = 'kdgan-report', ''
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        address = urllib.parse.urlsplit(self.path)
        if self.headers.get('Host') not in self.server.hosts:       # a page from elsewhere whose host name leads here
            return self._send(403, 'txt', 'Open this page by the address that the program has printed.')
        try:
            path = urllib.parse.unquote(address.path, errors='surrogateescape')
            found = self.server.site.answer(path, urllib.parse.parse_qs(address.query, errors='surrogateescape'))
        except UserError as err:
            return self._send(404, 'txt', str(err))
        except OSError as err:
            return self._send(404, 'txt', f'The folder has changed meanwhile ({err.strerror}); load the page again.')
        return self._send(404, 'txt', 'There is no such page.') if found is None else self._send(200, *found)

    do_HEAD = do_GET

    def _send(self, code, kind, content):
        body = content if isinstance(content, bytes) else content.encode('utf-8', 'replace')
        self.send_response(code)
        self.send_header('Content-Type', TYPES[kind])
        self.send_header('Content-Length', str(len(body)))
        self.send_header('Content-Security-Policy', f"{POLICY}; frame-ancestors 'none'")
        self.send_header('X-Content-Type-Options', 'nosniff')
        self.send_header('Referrer-Policy', 'no-referrer')
        self.send_header('Cache-Control', 'max-age=31536000, immutable' if kind == 'jpg' else 'no-store')
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def log_message(self, *_args):
        pass                            # requests are not logged


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False         # otherwise two servers could listen to the same port on some systems

    def __init__(self, folder, port):
        super().__init__((HOST, port), Handler)
        self.site = Site(folder)
        self.hosts = {f'{name}:{self.server_port}' for name in (HOST, 'localhost')}
        self.address = f'http://{HOST}:{self.server_port}/'

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):      # a browser that has gone away is no error
            super().handle_error(request, client_address)


def start(folder: str, port: int | None = None) -> Server:
    """A server that listens. Raises UserError if there is no such folder, or no port to be had.

    Args:
        port: None = the first free one from PORT on.
    """
    if not os.path.isdir(folder):
        raise UserError(f'{folder}: there is no such folder; name one with runs, such as the --outdir of train.py')
    if run_folder.is_run(folder):
        parent = os.path.dirname(os.path.abspath(folder))
        raise UserError(f'{folder}: is itself a run; name the folder that it lies in: {parent}')
    try:
        return ports.listen(lambda candidate: Server(folder, candidate), port, PORT)
    except OSError as err:
        raise UserError(HOST, f'cannot be listened at ({err.strerror or err})',
                        'bring up the loopback network of this machine') from err
