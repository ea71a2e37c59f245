"""The model card of a run: what it was trained on, how, and what was measured. Everything comes from files; the card
leaves out or marks what they lack."""

import copy
import json
import os

import dnnlib
from dnnlib import UserError, files, metric_records
from dnnlib.published import without_folders
from dnnlib.text import yes_or_no

from .. import model_files
from ..loss_terms import Term
from ..networks.architectures import of_class
from ..snapshots import files as snapshots
from ..snapshots.arguments import precision_of
from . import card_metrics as model_card_metrics
from . import files as run_files
from .changes import as_now

SNAPSHOT_PREFIX, SNAPSHOT_ENDING = 'network-snapshot-', '.safetensors'
NOT_RECORDED = 'not recorded'
PACKAGES = ('training', 'kd_plugin')    # whose terms are imported: a snapshot from anybody may name any class


def write_model_card(run_dir):
    """Writes model_card.md about the last snapshot of a run. Raises UserError if there is no snapshot, or it cannot be
    written."""
    files.write_text(os.path.join(run_dir, run_files.CARD_FILE), make_card(last_snapshot(run_dir)))


def last_snapshot(run_dir):
    """Path of the snapshot that has seen the most images. Raises UserError if there is none."""
    snapshots = run_files.find_snapshots(run_dir)
    if not snapshots:
        raise UserError(f'{run_dir}: there is no {SNAPSHOT_PREFIX}...{SNAPSHOT_ENDING} in it; name the '
                        'directory of a run')
    return os.path.join(run_dir, max(snapshots, key=snapshots.get))


def make_card(snapshot, title=None, load_as=None):
    """The text of the card: Markdown, with the header that the Hugging Face Hub reads.

    Args:
        snapshot: file; the statistics, metrics and samples in its directory that belong to it are used.
        title:    None = the name of that directory.
        load_as:  the argument of `load_generator` in the example; None = the name of the file.
    Raises: UserError if the snapshot cannot be read.
    """
    folder, name = os.path.split(os.path.abspath(snapshot))
    info = snapshots.load_info(snapshot)
    G_kwargs = snapshots.network_kwargs(snapshot, info)
    architecture = of_class(G_kwargs['class_name'])
    training = without_folders(info['training'])            # older snapshots hold paths
    options, nimg = as_now(training.get('options', {})), training.get('cur_nimg')
    metrics = model_card_metrics.read(folder, name, nimg, options.get('metrics', []))
    taught = any(term.has_teacher for term, _ in _terms(options))
    title = title or os.path.basename(folder)
    data = training.get('dataset', {})
    return '\n'.join([
        *_header(title, architecture, options, data, metrics),
        f'# {title}', '', _summary(architecture, G_kwargs, options, data), '',
        *_samples(folder, name, nimg),
        '## Use', '', '```python', *_use(load_as or name, architecture, G_kwargs['c_dim'],
                                  data.get('label_vectors')), '```', '',
        '## Data', '', *table(_data_rows(data)), '',
        '## Training', '', *table(_training_rows(options, G_kwargs, nimg, _stats_at(folder, nimg),
                                                 training.get('history', []))), '',
        '## Metrics', '', *model_card_metrics.describe(metrics, nimg, taught), '',
        '## Licence and limitations', '', *_licence(options), '',
    ])


def samples_of(snapshot):
    """Path of the grid of samples of this snapshot; None if there is none."""
    folder, name = os.path.split(snapshot)
    path = os.path.join(folder, f'fakes{name.removeprefix(SNAPSHOT_PREFIX).removesuffix(SNAPSHOT_ENDING)}.png')
    return path if os.path.isfile(path) else None


def cell(value):
    """A value in a table of Markdown."""
    return ' '.join(str(value).split()).replace('|', '\\|')


def table(rows):
    """[(name, value)] -> lines of Markdown; a value of None is not recorded."""
    return ['| | |', '|---|---|', *[f'| {name} | {NOT_RECORDED if value is None else cell(value)} |'
                                    for name, value in rows]]


def _header(title, architecture, options, data, metrics):
    """Lines of YAML, each value written as JSON, which YAML contains."""
    tags = [tag for term, _ in _terms(options) if (tag := term.tag)]
    task = 'unconditional-image-generation'         # the Hub knows no other name for images from class labels
    header = dict(library_name='kd-dlgan', pipeline_tag=task,
                  license='other' if options.get('init_from') in model_files.PUBLISHED else 'unknown',
                  tags=['gan', architecture.tag, *tags])
    values = [dict(type=group.metric, value=group.own['value']) for group in metrics
              if group.own and group.own['value'] is not None]
    if values:
        dataset = dict(name=data.get('name', NOT_RECORDED), type='image-folder')
        header['model-index'] = [dict(name=title,
                                      results=[dict(task=dict(type=task), dataset=dataset, metrics=values)])]
    return ['---', *[f'{key}: {json.dumps(value)}' for key, value in header.items()], '---', '']


def _summary(architecture, G_kwargs, options, data):
    side = G_kwargs['img_resolution']
    kind = 'class-conditional' if G_kwargs['c_dim'] > 0 else 'unconditional'
    colours = 'RGB' if G_kwargs['img_channels'] == 3 else 'grey'
    images = f', trained on {data["images"]} images' if 'images' in data else ''
    summaries = [text for term, kwargs in _terms(options) if (text := term.summary(kwargs))]
    methods = f' with {" and ".join(summaries)}' if summaries else ''
    return f'A {architecture.title} generator, {kind}, {side}x{side} {colours}{images}{methods}.'


def _terms(options):
    """[(class of a term, its arguments)]; of other packages, which are not imported, `Term` itself."""
    return [(_term_class(kwargs['class_name']), kwargs) for kwargs in options.get('terms', {}).values()]


def _term_class(name):
    try:
        found = dnnlib.util.get_obj_by_name(name) if name.split('.')[0] in PACKAGES else Term
    except (ImportError, AttributeError, ValueError):           # of another version of the project
        return Term
    return found if isinstance(found, type) and issubclass(found, Term) else Term


def _samples(folder, name, nimg):
    path = samples_of(os.path.join(folder, name))
    if path is None:
        return []
    return [f'![samples]({os.path.basename(path)})', '', f'Samples of this snapshot ({kimg(nimg)}): random, not '
                                                         'selected, truncation psi 1.', '']


def _use(load_as, architecture, c_dim, vectors):
    truncation = ', truncation_psi=0.7' if 'truncation' in architecture.abilities else ''
    label = ('None          # there are no classes' if c_dim == 0
             else f'torch.zeros(4, {c_dim})          # put in labels such as it was trained with' if vectors
             else f'torch.eye({c_dim})[[0] * 4]          # four images of class 0')
    return ['import torch', 'from training.model_files import load_generator', '',
            f'G = load_generator({load_as!r}, device=\'cpu\')',
            f'c = {label}',
            f'img = G(torch.randn(4, G.z_dim), c{truncation})        # [4, channels, side, side] in [-1, 1]']


def _data_rows(data):
    record = data.get('record') or {}
    steps = ('tool', 'source', 'split', 'transform', 'resize_filter', 'left_out')
    made = [f'{step.replace("_", " ")} {record[step]}' for step in steps if record.get(step)]
    classes = data.get('class_names')
    return [('name', data.get('name')), ('SHA-256 of the content as trained on', data.get('content_hash')),
            ('images', data.get('images')),
            *([('images held out for validation', data['held_out'])] if data.get('held_out') else []),
            ('resolution', data.get('resolution')), ('mirrored images added', yes_or_no(data.get('mirrored'))),
            ('labels used', yes_or_no(data.get('labels'))), ('classes', ', '.join(classes) if classes else None),
            ('made by', '; '.join(made) or None)]


def _training_rows(c, G_kwargs, nimg, stats, history):
    """c: the configuration, {} if the snapshot has none."""
    loss = c.get('loss_kwargs', {})
    seconds = stats.get('Timing/total_sec', {}).get('mean')
    return [
        ('length', kimg(nimg)), ('batch', c.get('batch_size')), ('learning rate', _learning_rate(c)),
        ('R1 weight', loss.get('r1_gamma')), ('half-life of the weight average',
                                              kimg(c['ema_kimg'] * 1000) if 'ema_kimg' in c else None),
        ('precision', _precision(G_kwargs) if c else None), ('augmentation', _augmentation(c, stats)),
        *_methods(_terms(c), stats), ('started from', _start(c) if c else None), *_rollbacks(history), *_edits(history),
        ('seed', c.get('random_seed')),
        ('processes', f'{c["num_gpus"]} on {c.get("device", NOT_RECORDED)}' if 'num_gpus' in c else None),
        ('time', None if seconds is None else dnnlib.util.format_time(seconds)),
    ]


def _learning_rate(c):
    G, D = [c.get(f'{name}_opt_kwargs', {}).get('lr') for name in ('G', 'D')]
    return G if D in (G, None) else f'{G}, of the discriminator {D}'


def _precision(G_kwargs):
    layers, block = precision_of(copy.deepcopy(G_kwargs)) or ({}, {})
    return f'{block.get("half_dtype", "float16")} and float32' if layers.get('num_fp16_res') else 'float32'


def _start(c):
    start, origin = c.get('init_from'), c.get('found_out', {}).get('fork_origin')
    if origin:
        return f'the state of the run {origin["run"]} at {kimg(origin["cur_nimg"])} (checksum {origin["checksum"]})'
    if not start:
        return 'random weights'
    return os.path.basename(start) if model_files.is_local(start) else files.public_address(start)


def _rollbacks(history):
    return [('rollback', f'from {kimg(event["cur_nimg"])} to {kimg(event["to"])}, learning rate times '
                         f'{event["lr_factor"]:g}: gradients were infinite or NaN')
            for event in history if event['event'] == 'rollback']


def _edits(history):
    edited = any(event['event'] == 'edited' for event in history)
    return [('changed', 'its weights, after the training')] if edited else []


def _augmentation(c, stats):
    if not c:
        return None
    if c.get('augment_kwargs') is None:
        return 'none'
    if not c['augment_kwargs']['class_name'].endswith('.AugmentPipe'):
        return _object(c['augment_kwargs'])
    kinds = ', '.join(key for key in c['augment_kwargs'] if key != 'class_name')
    p = stats.get('Progress/augment', {}).get('mean')
    ramp = c.get('augment_ramp_kimg')
    how = (f'ADA, target {c["ada_target"]}' if c.get('ada_target') is not None else 'fixed' if ramp is None
           else f'linear, over {ramp} kimg')
    return f'{how}; probability at the end {NOT_RECORDED if p is None else f"{p:.3f}"}; {kinds}'


def _methods(terms, stats):
    """The rows that terms give, then a row for those that give none."""
    rows = [(kwargs, term.card_rows(kwargs, stats)) for term, kwargs in terms]
    others = [_object(kwargs) for kwargs, own in rows if not own]
    return [*(row for _, own in rows for row in own), *([('further methods', '; '.join(others))] if others else [])]


def _object(kwargs):
    """{'class_name': 'a.b.LeCam', 'weight': 1} -> 'LeCam: weight 1'."""
    listed = lambda value: ', '.join(map(str, value if isinstance(value, list) else [value]))
    values = [f'{key} {listed(value)}' for key, value in kwargs.items() if key != 'class_name']
    return f'{kwargs["class_name"].rsplit(".", 1)[-1]}: {", ".join(values)}'


def _stats_at(folder, nimg):
    """The statistics of the tick that ended with this snapshot; {} if they are not there."""
    records = metric_records.read_lines(os.path.join(folder, run_files.STATS_FILE))
    return next((r for r in reversed(records) if nimg is not None and round(r['Progress/kimg']['mean'] * 1000) == nimg),
                {})


def kimg(nimg):
    return None if nimg is None else f'{nimg / 1000:g} kimg'


def _licence(options):
    start = options.get('init_from')
    lines = ['- Licence of the weights: not stated.', '- Licence of the training images: not stated.']
    if start in model_files.PUBLISHED:
        lines.append(f'- The training started from `{start}`, which NVIDIA publishes for non-commercial use only.')
    return [*lines, '- Limitations: not stated. Generated images resemble the training images; with few of them, some '
                    'may be close to copies.']
