"""Chromium, if it is installed, through Playwright; and pages in it that say nothing and ask no other machine."""

import contextlib
import shutil

import pytest

LIMIT = 60_000                  # milliseconds; only ends a hang
CHROMIUM = next(
    (path for name in ('chromium', 'chromium-browser', 'google-chrome') if (path := shutil.which(name))), None
)
NEEDED = pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium on this machine: apt-get install chromium')

# Contrast of all texts that are seen, by WCAG 2: [ratio, size in pixels, text]; and of the labels that charts draw.
CONTRAST = '''() => {
    const numbers = text => text.match(/[\\d.]+/g).map(Number);
    const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = numbers(getComputedStyle(at).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
    };
    const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const found = [];
    const texts = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement, style = getComputedStyle(element);
        const text = texts.currentNode.textContent.trim();
        if (!text || !element.checkVisibility() || element.closest('button:disabled')) continue;
        found.push([ratio(numbers(style.color), behind(element)), parseFloat(style.fontSize), text]);
    }
    const probe = document.createElement('span');
    document.body.append(probe);
    const plots = typeof charts === 'undefined' ? [] : charts.made.map(entry => entry.plot);
    for (const u of plots) for (const axis of u.axes) {
        probe.style.color = axis.stroke(u);
        found.push([ratio(numbers(getComputedStyle(probe).color), behind(document.body)), 12, 'label of a chart']);
    }
    return found;
}'''


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


def bad_images(page):
    """Sources of the images that have no alternative text or could not be loaded, once all have ended loading."""
    page.wait_for_function('[...document.images].every(image => image.complete)', timeout=LIMIT)
    return page.evaluate('[...document.images].filter(i => !i.alt || i.naturalWidth === 0).map(i => i.src)')
