"""What the files of a run are called, and what a run that was cut short still lacks."""

import json
import os

STATE_FILE = 'training-state.safetensors'
STATS_FILE = 'stats.jsonl'


def kimg_label(cur_nimg, kimg_per_tick):
    """'000024', or '000000.384' where ticks are shorter than a thousand images."""
    return f'{cur_nimg // 1000:06d}' + (f'.{cur_nimg % 1000:03d}' if kimg_per_tick < 1 else '')


def snapshot_path(run_dir, cur_nimg, kimg_per_tick):
    return os.path.join(run_dir, f'network-snapshot-{kimg_label(cur_nimg, kimg_per_tick)}.safetensors')


def read_lines(path):
    """The JSON objects in a file of one per line; a line that was cut off is left out."""
    records = []
    if os.path.isfile(path):
        with open(path, encoding='utf-8') as f:
            for line in f:
                try:
                    records.append(json.loads(line))
                except json.JSONDecodeError:
                    continue
    return records


def unmeasured(run_dir, snapshot, metrics):
    """Those of `metrics` that no metric-NAME.jsonl has of this snapshot."""
    measured = lambda metric: {record.get('snapshot') for record in read_lines(os.path.join(run_dir, f'metric-{metric}.jsonl'))}
    return [metric for metric in metrics if os.path.basename(snapshot) not in measured(metric)]


def is_complete(run_dir, cur_nimg, config):
    """Whether a run that has seen `cur_nimg` images is trained, saved and measured."""
    snapshot = snapshot_path(run_dir, cur_nimg, config['kimg_per_tick'])
    return cur_nimg >= config['total_kimg'] * 1000 and os.path.isfile(snapshot) and not unmeasured(run_dir, snapshot, config['metrics'])
