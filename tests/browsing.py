"""Chromium, if it is installed, through Playwright; and pages in it that say nothing and ask no other machine."""

import contextlib
import shutil

import pytest

LIMIT = 60_000                  # milliseconds; only ends a hang
CHROMIUM = next(
    (path for name in ('chromium', 'chromium-browser', 'google-chrome') if (path := shutil.which(name))), None
)
NEEDED = pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium on this machine: apt-get install chromium')


@contextlib.contextmanager
def started():
    """Chromium, without a window."""
    from playwright import sync_api
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])      # root has no sandbox
        yield browser
        browser.close()


@contextlib.contextmanager
def quiet_pages(browser):
    """A function of an address: the page, once it is loaded. At the end nothing may have been on its console, and no
    address of another machine asked for."""
    said, contexts = [], []

    def open_page(address, width=1180, scheme='light'):
        context = browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(LIMIT)
        page = context.new_page()
        page.on('console', lambda message: said.append(message.text))
        page.on('pageerror', lambda error: said.append(str(error)))
        page.on('dialog', lambda dialog: said.append(dialog.message))
        page.on(
            'request',
            lambda request: (
                said.append(request.url)
                if not request.url.startswith(('file:', 'data:', 'blob:', 'http://127.')) else None
            ),
        )
        page.goto(address)
        return page
    yield open_page
    for context in contexts:
        context.close()
    assert said == []
