"""Records that may be published: without the folders, users and passwords of the machine that they were made on."""

import ntpath
import os
import re
from typing import Any

from . import files
from .util import is_url

# Entries of records that name a file, a folder, an address or a published name; in others a slash may be part of it.
PATHS = ('path', 'data', 'source', 'target', 'network', 'init_from', 'fork_from', 'run_dir', 'detector', 'test_data')
CONTENT = ('class_names', 'texts')      # entries with texts of the data set or the user, not places
FILES = re.compile(r'\.(zip|safetensors|pkl|pt|pth|bin|json|jsonl|txt|npz|png|jpe?g)$', re.IGNORECASE)


def without_folders(value: Any, name: str | None = None) -> Any:
    """JSON content, with each path of this machine cut to its last part, and each address to its public part. A text
    counts as a path if it is absolute, begins with ~ or ./ or ../, ends like a file, or names an existing file; in the
    entries of PATHS, also if it has a slash. Names such as ViT-B/32 and hf:user/repo stay.

    Args:
        name: the entry of a table that the value is.
    """
    if isinstance(value, dict):
        return {key: without_folders(entry, key) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return value if name in CONTENT else type(value)(without_folders(entry, name) for entry in value)
    return _public(value, name) if isinstance(value, str) else value


def _public(text: str, name: str | None) -> str:
    if is_url(text):
        return files.public_address(text)
    if text.startswith('hf:'):                      # user/repo on the Hub, or a folder of this machine
        return 'hf:' + _last(text[3:]) if _is_place(text[3:]) else text
    is_file = re.search(r'[/\\]', text) is not None and (name in PATHS or FILES.search(text) is not None)
    return _last(text) if is_file or _is_place(text) else text


def _is_place(text: str) -> bool:
    """Whether it can only be a path of this machine."""
    absolute = os.path.isabs(text) or re.match(r'[A-Za-z]:[/\\]|\\\\', text) is not None
    return absolute or re.match(r'~|\.{1,2}[/\\]', text) is not None or ('/' in text and os.path.exists(text))


def _last(path: str) -> str:
    return ntpath.basename(path.rstrip('/\\'))      # splits at both kinds of slash
