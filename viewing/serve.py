"""The page, served: to this machine alone unless asked otherwise, and with nothing in it that comes from elsewhere."""

import contextlib
import ipaddress
import os
import socket
import tempfile

from dnnlib import UserError, ports
from dnnlib.util import get_obj_by_name

LOOPBACK, PORT = '127.0.0.1', 7860
# Gradio's script makes further ones, and styles, from texts. No address but the page's own is asked for anything.
POLICY = ("default-src 'self'; script-src 'self' 'unsafe-inline' blob:; style-src 'self' "
          "'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
          "connect-src 'self'; worker-src 'self' blob:; base-uri 'self'; form-action 'self'")
MISSING = 'the viewer needs the package gradio, which cannot be imported ({}); install it with: pip install gradio'


def listen(host, port):
    """-> a socket that listens. Raises UserError if there is none to be had.

    Args:
        host: of this machine: a name or an address of IPv4, or an address of IPv6.
        port: None = the first free one from PORT on.
    """
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        return ports.listen(lambda candidate: socket.create_server((host, candidate), family=family), port, PORT)
    except OSError as err:
        raise UserError(f'--host={host}', f'cannot be listened at ({err.strerror or err})',
                        f'leave it out for {LOOPBACK}') from err


def own_names(host, at):
    """The names under which a socket that listens at `host` answers; None = all, where other machines reach it."""
    bound = at.getsockname()[0]
    if not ipaddress.ip_address(bound).is_loopback:
        return None
    return list(dict.fromkeys([in_address(host), in_address(bound), 'localhost']))


def in_address(host):
    """As browsers write it in addresses, and in the header Host."""
    return f'[{host}]' if ':' in host else host


def load_gradio(folder):
    """Imports gradio, told to keep to itself -> the class of the page. Raises UserError if it is not installed.

    folder: for the files that it keeps for browsers.
    """
    # It reads these when it is imported: no telemetry, no question for its newest version
    os.environ.update(GRADIO_ANALYTICS_ENABLED='False', GRADIO_TEMP_DIR=folder, HF_HUB_DISABLE_TELEMETRY='1')
    try:
        import gradio  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as err:
        raise UserError(MISSING.format(err)) from err
    return get_obj_by_name('viewing.page.Page')


def make_app(page, hosts):
    """Page -> ASGI application; hosts: the only names under which it answers, None = all."""
    import fastapi
    import gradio
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import PlainTextResponse
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if hosts is not None:           # a page from elsewhere, whose name leads here, gets no answer
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)

    @app.middleware('http')
    async def keep_to_ourselves(request, call_next):
        # Gradio would keep any file that anybody sends, pages from elsewhere too; this page takes none
        refused = request.method == 'POST' and request.url.path.rstrip('/').endswith('/upload')
        response = PlainTextResponse('No files are taken here.', 403) if refused else await call_next(request)
        response.headers['Content-Security-Policy'] = POLICY
        response.headers['Referrer-Policy'] = 'no-referrer'
        return response

    theme = gradio.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])
    return gradio.mount_gradio_app(app, page.blocks, path='/', theme=theme, css=page.style, footer_links=[],
                                   ssr_mode=False, run_history=False, enable_monitoring=False, pwa=False,
                                   mcp_server=False)


def serve(networks, real, host=LOOPBACK, port=None):
    """Shows networks until Ctrl-C. Raises UserError if that is not possible.

    Args:
        networks: function that loads them -> `networks.Network`s; called once it is clear that they can be shown.
        real:     their list -> {name: `networks.Real`} of those that have training images.
        host:     LOOPBACK and others of the kind = this machine alone; 0.0.0.0 = whoever reaches it.
        port:     None = the first free one from PORT on.
    """
    with tempfile.TemporaryDirectory() as folder, listen(host, port) as at:
        Page = load_gradio(os.path.join(folder, 'browsers'))
        loaded = networks()
        made = os.path.join(folder, 'made')
        os.mkdir(made)
        page = Page(loaded, real(loaded), made)
        import uvicorn
        hosts = own_names(host, at)
        app = make_app(page, hosts)
        who = 'whoever reaches this machine' if hosts is None else 'this machine only'
        print(f'Showing {", ".join(page.networks)} at http://{in_address(host)}:{at.getsockname()[1]}/ ({who}). '
              'Ctrl-C ends it.', flush=True)
        config = uvicorn.Config(app, log_level='error', lifespan='on', timeout_graceful_shutdown=1)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[at])
        print('\nEnded.')
