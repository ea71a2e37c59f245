"""Pages as HTML: templates, style and script, and how pictures are put in or linked. Nothing is loaded from
elsewhere."""

import base64
import functools
import hashlib
import json
import os
import urllib.parse

import jinja2
import markupsafe

from dnnlib import UserError, files

from . import pictures

HERE = os.path.dirname(__file__)
STYLES, SCRIPTS = ('uplot.css', 'style.css'), ('uplot.js', 'charts.js', 'report.js')
NOTHING_ELSE = "default-src 'none'; base-uri 'none'; form-action 'none'"
STYLE_FILE, SCRIPT_FILE = 'report.css', 'report.js'


@functools.cache
def asset(kind: str) -> str:
    """The text of the 'style' or the 'script' of all pages."""
    texts = []
    for name in STYLES if kind == 'style' else SCRIPTS:
        with open(os.path.join(HERE, 'assets', name), encoding='utf-8') as f:
            texts.append(f.read().strip())
    return '\n'.join(texts) + '\n'


class Inline:
    """Everything in the page. Its content policy names style and script by their hashes, so that nothing else runs."""

    def picture(self, name, jpeg):
        return pictures.data_url(jpeg)

    def head(self):
        style, script = [f"'sha256-{base64.b64encode(hashlib.sha256(asset(kind).encode()).digest()).decode()}'"
                         for kind in ('style', 'script')]
        policy = f"{NOTHING_ELSE}; img-src data:; style-src {style}; script-src {script}"
        return dict(policy=policy, style=markupsafe.Markup(asset('style')), script=markupsafe.Markup(asset('script')))


class Linked:
    """Style, script and pictures as files of a folder, for places whose content policy forbids them in the page.

    Args:
        folder: where they are written.
        page:   path of the page, from which they are linked.
    """

    def __init__(self, folder, page):
        self.folder = folder
        start = os.path.dirname(os.path.abspath(page))
        try:
            self.prefix = os.path.relpath(os.path.abspath(folder), start).replace(os.sep, '/')
        except ValueError as err:                       # another drive of Windows
            raise UserError(f'--assets={folder}: cannot be linked from {page} ({err}); '
                            'choose a folder next to the page') from err
        files.make_dir(folder)
        for name, kind in [(STYLE_FILE, 'style'), (SCRIPT_FILE, 'script')]:
            files.write_text(os.path.join(folder, name), asset(kind))

    def picture(self, name, jpeg):
        with files.atomic_path(os.path.join(self.folder, name)) as temp, open(temp, 'wb') as f:
            f.write(jpeg)
        return self._address(name)

    def head(self):
        policy = f"{NOTHING_ELSE}; img-src 'self' file:; style-src 'self' file:; script-src 'self' file:"
        return dict(policy=policy, style_url=self._address(STYLE_FILE), script_url=self._address(SCRIPT_FILE))

    def _address(self, name):
        return urllib.parse.quote(f'{self.prefix}/{name}')


@functools.cache
def _templates():
    loader = jinja2.FileSystemLoader(os.path.join(HERE, 'templates'))
    found = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True,
                               undefined=jinja2.StrictUndefined)
    found.filters['with_code'] = with_code
    return found


def with_code(text: str) -> markupsafe.Markup:
    """Text with the parts in backticks as code, which is not broken into lines."""
    parts = [markupsafe.escape(part) if number % 2 == 0 else markupsafe.Markup('<code>{}</code>').format(part)
             for number, part in enumerate(text.split('`'))]
    return markupsafe.Markup('').join(parts)


def render(template: str, how, data: dict, **values) -> str:
    """A page.

    Args:
        template: name of a file in templates/.
        how:      `Inline`, `Linked` or what the server has: where pictures, style and script come from.
        data:     JSON-able, for the script.
        values:   for the template.
    """
    text = _templates().get_template(template).render(parts=how.head(), data=as_json(data), **values)
    return text.encode('utf-8', 'replace').decode()             # names of files may hold bytes that are no text


def as_json(data) -> markupsafe.Markup:
    """JSON that can stand within <script type="application/json">: no character in it begins a tag."""
    text = json.dumps(data, separators=(',', ':'), allow_nan=False)
    return markupsafe.Markup(text.replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026'))
