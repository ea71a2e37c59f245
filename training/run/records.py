"""The files of a run that grow line by line; removes the lines that a run continued from a state will write again."""

import glob
import json
import os
import re

from dnnlib import files
from dnnlib.metric_records import read_lines

from . import files as run_files

TICK_LINE = re.compile(r'tick (\d+) ')


def append_line(path, record):
    """Adds a JSON object as one line to a file. Raises UserError if it cannot be written."""
    try:
        with open(path, 'a', encoding='utf-8') as f:
            f.write(json.dumps(record) + '\n')
    except OSError as err:
        raise files.write_error(path, err) from err


def forget_after(run_dir, cur_nimg, cur_tick, rollbacks=0):
    """Keeps only lines of the first `cur_nimg` images: before tick number `cur_tick`, and up to so many rollbacks."""
    _keep(os.path.join(run_dir, run_files.STATS_FILE), lambda record: round(record['Progress/kimg']['mean'] * 1000)
          <= cur_nimg)
    for path in glob.glob(os.path.join(glob.escape(run_dir), run_files.metric_name('*'))):
        _keep(path, lambda record: (record.get('cur_nimg') or 0) <= cur_nimg)
    earlier = lambda record: record['rollbacks'] < rollbacks or (record['rollbacks'] == rollbacks
                                                                 and record['cur_nimg'] < cur_nimg)
    _keep(os.path.join(run_dir, run_files.BAD_STEPS_FILE), earlier)
    _keep_ticks(os.path.join(run_dir, run_files.LOG_FILE), cur_tick)


def _keep(path, wanted):
    """Rewrites a file of one JSON object per line, if something in it is not wanted or was cut off: the next line would
    be joined to that."""
    if not os.path.isfile(path):
        return
    kept = ''.join(json.dumps(record) + '\n' for record in read_lines(path) if wanted(record))
    with open(path, encoding='utf-8', errors='replace') as f:
        changed = f.read() != kept
    if changed:
        files.write_text(path, kept)


def _keep_ticks(path, cur_tick):
    """In place: the log is open, and what is printed next goes to its new end."""
    if not os.path.isfile(path):
        return
    with open(path, 'r+', encoding='utf-8', errors='replace', newline='') as f:
        lines = f.readlines()
        kept = [line for line in lines if not ((tick := TICK_LINE.match(line)) and int(tick[1]) >= cur_tick)]
        if len(kept) < len(lines):
            f.seek(0)
            f.writelines(kept)
            f.truncate()
