"""Servers of tests, in a thread each."""

import contextlib
import threading


@contextlib.contextmanager
def running(server):
    """-> the server, with `address`; it ends with the block."""
    server.address = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01))
    thread.start()
    try:
        yield server
    finally:
        server.ended = True
        server.shutdown()
        thread.join()
        server.server_close()
