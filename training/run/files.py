"""The names of a run's files, and what an interrupted run still lacks."""

import os
import re

from dnnlib.metric_records import read_metric

STATE_FILE = 'training-state.safetensors'
PREVIOUS_STATE_FILE = 'training-state-previous.safetensors'         # the one before it, in case the newest is damaged
STATS_FILE = 'stats.jsonl'
LOG_FILE = 'log.txt'
BAD_STEPS_FILE = 'bad-steps.jsonl'
CARD_FILE = 'model_card.md'
SNAPSHOT = re.compile(r'network-snapshot-(\d+)(?:\.(\d{3}))?\.safetensors')


def kimg_label(cur_nimg, kimg_per_tick):
    """'000024', or '000000.384' where ticks are shorter than a thousand images."""
    return f'{cur_nimg // 1000:06d}' + (f'.{cur_nimg % 1000:03d}' if kimg_per_tick < 1 else '')


def snapshot_path(run_dir, cur_nimg, kimg_per_tick):
    return os.path.join(run_dir, f'network-snapshot-{kimg_label(cur_nimg, kimg_per_tick)}.safetensors')


def find_snapshots(run_dir):
    """{file name: images seen}."""
    matches = [SNAPSHOT.fullmatch(name) for name in os.listdir(run_dir)]
    return {m[0]: int(m[1]) * 1000 + int(m[2] or 0) for m in matches if m}


def state_paths(run_dir):
    """The training states of a run, the newest first."""
    paths = [os.path.join(run_dir, name) for name in (STATE_FILE, PREVIOUS_STATE_FILE)]
    return [path for path in paths if os.path.isfile(path)]


def metric_name(metric):
    return f'metric-{metric}.jsonl'


def measurements(run_dir, snapshot, metrics, cur_nimg):
    """{metric: its last record of this snapshot, made after `cur_nimg` images}; those that are not measured are
    missing. A snapshot may have replaced one of the same name, within the same thousand images."""
    name = os.path.basename(snapshot)
    records = [(metric, record) for metric in metrics for record in read_metric(run_dir, metric)]
    return {metric: record for metric, record in records
            if (record.get('snapshot'), record.get('cur_nimg')) == (name, cur_nimg)}


def unmeasured(run_dir, snapshot, metrics, cur_nimg):
    """Those of `metrics` that are not on record of this snapshot."""
    measured = measurements(run_dir, snapshot, metrics, cur_nimg)
    return [metric for metric in metrics if metric not in measured]


def ending(by, why, config):
    """The record of an observer's verdict in the training state, with the settings that it depends on."""
    return dict(by=by, why=why, observer=config['observers'][by], total_kimg=config['total_kimg'])


def is_ended(ended, config):
    """Whether a verdict (None = there is none) still holds: the configuration has the same observer and the same
    length."""
    return (ended is not None
            and ended == {**ended, 'observer': config.get('observers', {}).get(ended['by']),
                          'total_kimg': config['total_kimg']})


def total_images(config):
    """How many images the run sees at least. --kimg is a decimal fraction: 1000 times it may be just above a whole
    number."""
    return round(config['total_kimg'] * 1000)


def is_complete(run_dir, progress, config):
    """Whether a run is trained, saved, measured and described; progress: what its state says of it (cur_nimg,
    ended)."""
    cur_nimg = progress['cur_nimg']
    snapshot = snapshot_path(run_dir, cur_nimg, config['kimg_per_tick'])
    written = all(os.path.isfile(path) for path in (snapshot, os.path.join(run_dir, CARD_FILE)))
    trained = cur_nimg >= total_images(config) or is_ended(progress.get('ended'), config)
    return trained and written and not unmeasured(run_dir, snapshot, config['metrics'], cur_nimg)
