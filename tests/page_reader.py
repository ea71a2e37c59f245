"""Reads a page of a run as a browser would."""

import html.parser
import json
import pathlib


class Reader(html.parser.HTMLParser):
    """Collects tags with their attributes, texts outside of scripts, and scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.scripts, self.inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag if tag in ('script', 'style', 'title') else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        (self.scripts if self.inside in ('script', 'style') else self.texts).append(data)

    @property
    def text(self):
        return ' '.join(' '.join(self.texts).split())

    @property
    def data(self):
        """What the script is given."""
        return json.loads(self.scripts[-2] if len(self.scripts) > 1 else self.scripts[0])


def read_page(path):
    return Reader(pathlib.Path(path).read_text(encoding='utf-8'))
