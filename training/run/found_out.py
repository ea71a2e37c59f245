"""What a run finds out at its start and keeps until its end. It has a file of its own, so the options stay as given.

Entries: `batch_gpu`, the micro-batch that --batch-gpu=auto chose; `cpu_threads`; `fork_origin`, the state that a fork
         began with. While a run trains, they are the table `found_out` of its configuration, which snapshots record.
"""

import json
import os

from dnnlib import files

FILE = 'found_out.json'


def read(run_dir, otherwise=None):
    """-> {entry: value}. otherwise: the result if there is no such file, or it cannot be read."""
    try:
        with open(os.path.join(run_dir, FILE), encoding='utf-8') as f:
            return json.load(f)
    except (OSError, json.JSONDecodeError):
        return dict(otherwise or {})


def write(run_dir, found):
    """Whole or not at all; by the first process."""
    files.write_text(os.path.join(run_dir, FILE), json.dumps(found, indent=2) + '\n')
