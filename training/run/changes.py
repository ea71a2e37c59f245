"""How the configurations of two commands differ, and which differences may be when a run is continued."""

import json
import os
import re

# May differ when a run is continued: none of these changes the training. A point separates a table and its entry.
FREE = ('total_kimg', 'run_dir', 'snapshot_keep', 'snapshot_networks', 'image_snapshot_ticks', 'network_snapshot_ticks',
        'grid_images', 'metrics', 'metric_kwargs', 'metric_set_kwargs', 'data_loader_kwargs', 'cudnn_benchmark',
        'cuda_graphs', 'bad_steps_kwargs', 'observers', 'options_given', 'report_kwargs', 'found_out',
        'terms.kd.texts_origin')
OPTION_OF = {
    'random_seed': '--seed', 'kd.seed': '--seed', 'num_gpus': '--gpus', 'device': '--device', 'batch_size': '--batch',
    'batch_gpu': '--batch-gpu', 'training_set_kwargs.path': '--data', 'training_set_kwargs.max_size': 'images',
    'training_set_kwargs.xflip': '--mirror', 'training_set_kwargs.use_labels': '--cond',
    'training_set_kwargs.random_seed': '--seed',
    'kimg_per_tick': '--tick', 'r1_gamma': '--gamma', 'ada_target': '--target', 'augment_p': '--p',
    'augment_ramp_kimg': '--p-kimg', 'init_from': '--init-from', 'fork_from': '--fork-from',
    'allow_tf32': '--allow-tf32', 'conv_tf32': '--allow-tf32',
    'channels_last': '--nhwc', 'fp32': '--fp32', 'teacher_fp32': '--fp32',
    'compile': '--compile', 'kd.methods': '--kd',
    'kd.settings.teacher_input': '--kd-input',
    'block_kwargs.freeze_layers': '--freezed', 'G_kwargs.bn_sync': '--bn-sync', 'uniform_labels': '--cfg',
    'G_kwargs.channels': '--cbase', 'channel_base': '--cbase',
}
OF_PRECISION = ('num_fp16_res', 'half_dtype', 'conv_clamp', 'teacher_fp32')
FOLLOWS = (*OF_PRECISION, 'fp16_channels_last')        # from --device, --fp32 and --nhwc, which are listed too
# top-level entries that depend on the precision
HAVE_PRECISION = ('fp32', 'G_kwargs', 'D_kwargs', 'loss_kwargs', 'terms')
# Classes that have moved since earlier runs: old name -> present name.
RENAMED = {
    'training.diffaugment.DiffAugment': 'training.augment.diffaugment.DiffAugment',
    'training.apa.AdaptivePseudoAugmentation': 'training.methods.apa.AdaptivePseudoAugmentation',
    'training.lecam.LeCam': 'training.methods.lecam.LeCam',
    'training.insgen.InsGen': 'training.methods.insgen.InsGen',
    'training.chain.Chain': 'training.methods.chain.Chain',
    'training.fakeclr.FakeCLR': 'training.methods.fakeclr.FakeCLR',
    'training.validation.Validation': 'training.observers.validation.Validation',
    'training.near_copies.NearCopies': 'training.observers.near_copies.NearCopies',
    'training.early_stop.EarlyStop': 'training.observers.early_stop.EarlyStop',
}
# Entries of `found_out` that earlier versions kept among the options.
FOUND_OUT = dict(batch_gpu_probed='batch_gpu', fork_origin='fork_origin')
# Values that runs were trained with before their configurations named them.
UNWRITTEN = dict(G_reg_interval=4, D_reg_interval=16, D_steps=1, ema_buffers='copy', ada_interval=4,
                 ada_kimg=500)
MOST = 6                        # differences that a message lists


def as_now(config):
    """A configuration of an earlier version in the present form: classes where they lie now, distillation among the
    terms, what the run found out in a table of its own."""
    config = _with_present_names(config)
    found = {now: config.pop(before) for before, now in FOUND_OUT.items() if before in config}
    if found:
        config['found_out'] = found
    table = lambda value: value if isinstance(value, dict) else {}
    loss = table(config.get('loss_kwargs'))
    if kd := table(loss.get('kd_kwargs')):
        terms = {**table(config.get('terms')), 'kd': dict(class_name='kd_plugin.loss.Distillation', **kd)}
        loss = {key: value for key, value in loss.items() if key != 'kd_kwargs'}
        config.update(loss_kwargs=dict(loss, class_name='training.loss.StyleGAN2Loss'), terms=terms)
    return config


def _with_present_names(table):
    """Of nested tables, too."""
    renamed = lambda key, value: RENAMED.get(value, value) if key == 'class_name' else value
    return {key: _with_present_names(value) if isinstance(value, dict) else renamed(key, value)
            for key, value in table.items()}


def differences(saved, config):
    """['--seed=0, now 1', ...]: differences between two configurations that matter to a run. An entry that one of them
    lacks counts as off."""
    saved, config = _comparable(saved), _comparable(json.loads(json.dumps(config)))
    # Either follows its processor; the run keeps the precision that it began with
    if saved.pop('fp32_auto', None) and config.pop('fp32_auto', None):
        counts = lambda key: key.rpartition('.')[2] not in ('fp32', *OF_PRECISION)
        saved, config = ({key: value for key, value in flat.items() if counts(key)} for flat in (saved, config))
    config.pop('fp32_auto', None)
    keys = [key for key in {**saved, **config} if not _same(saved.get(key), config.get(key))]
    keys = [key for key in keys if not _is_free(key, saved, config)]
    keys = [key for key in keys if key.rpartition('.')[2] not in FOLLOWS] or keys
    return list(dict.fromkeys(f'{option_name(key)}={_short(saved.get(key))}, now {_short(config.get(key))}'
                              for key in keys))


def _same(a, b):
    """Whether two values mean the same: missing is off, and two paths may lead to one file."""
    if isinstance(a, str) and isinstance(b, str):
        return a == b or (os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b))
    on = lambda value: None if value is False else value
    return on(a) == on(b)


def with_data_at(config, path):
    """A configuration as it would be with its images at `path`."""
    config = dict(config, training_set_kwargs=dict(config.get('training_set_kwargs') or {}, path=path))
    terms = config.get('terms') or {}
    at_path = lambda term: dict(term, training_set_kwargs=dict(term['training_set_kwargs'],
                                                               path=path)) if 'training_set_kwargs' in term else term
    config['terms'] = {name: at_path(term) for name, term in terms.items()}
    return config


def other_reference(saved, config):
    """A line for the log if a continued run measures its metrics against other images from now on; else None."""
    before, now = [(c.get('metric_set_kwargs') or c['training_set_kwargs'])['path'] for c in (saved, config)]
    if _same(before, now) or not config['metrics']:
        return None
    return (f'Metrics are measured against {now} from now on, so far against {before}: values against other images are '
            'not compared, --early-stop begins to count again, and --snapshot-keep=best keeps the best by each.')


def precision_to_keep(saved, config):
    """The entries of `config` that depend on the processor, with the precision of a run that began on another one."""
    if not saved.get('fp32_auto'):
        return {}
    return {key: _in_precision_of(saved[key], config[key]) for key in HAVE_PRECISION if key in saved and key in config}


def _in_precision_of(saved, value):
    """`value` with what says a precision as `saved` has it; of nested tables, too."""
    if not isinstance(value, dict):
        return saved
    says = lambda key: key == 'fp32' or key in FOLLOWS
    result = {key: item for key, item in value.items() if not says(key)}
    for key, item in saved.items():
        if says(key):
            result[key] = item
        elif isinstance(item, dict) and (inner := _in_precision_of(item, value.get(key) or {})):
            result[key] = inner
    return result


def refusal(run_dir, lines):
    """The error message for a command that means an existing run but has other options."""
    listed = '; '.join(lines[:MOST]) + (f'; ... ({len(lines)} in all)' if len(lines) > MOST else '')
    return (f'{run_dir} is not complete and was started with {listed}. To continue it, give the options that it was '
            f'started with; use --new-run=1 for another run, or --fork-from={run_dir} to start one from its state on '
            'purpose')


def same_name(name, description):
    """Whether a run directory has the name of a command, apart from its number and the number of processes."""
    return without_processes(name.partition('-')[2]) == without_processes(description)


def without_processes(name):
    """'x-auto8-gamma5' -> 'x-auto-gamma5'."""
    return re.sub(r'-auto\d+(?=-|$)', '-auto', name)


def flattened(table, prefix=''):
    """{'a.b': value} of a nested table."""
    flat = {}
    for key, value in table.items():
        flat.update(flattened(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value})
    return flat


def _comparable(config):
    """A flat, complete configuration in which --batch-gpu=auto is a value of batch_gpu."""
    flat = {**UNWRITTEN, **flattened(config)}
    if flat.pop('batch_gpu_auto', None):
        flat['batch_gpu'] = 'auto'
    return flat


def _is_free(key, saved, config):
    """'auto' and the micro-batch that it has found count as the same."""
    found = saved.get('found_out.batch_gpu')
    is_found = key == 'batch_gpu' and found is not None and config.get(key) in ('auto', found)
    return is_found or key in FREE or key.partition('.')[0] in FREE


def option_name(key):
    """What a user calls an entry of the configuration."""
    known = next((option for name, option in OPTION_OF.items() if key == name or key.endswith('.' + name)), None)
    if known is None and key.startswith('terms.') and key.count('.') > 1:
        _, method, *_, name = key.split('.')
        return f'--{method}-{name}'.replace('_', '-')
    return known or key


def _short(value):
    if isinstance(value, list) and len(value) > 3:
        return f'{value[0]}, ... ({len(value)} in all)'
    text = str(int(value) if isinstance(value, bool) else value)
    return text if len(text) <= 80 else f'{text[:30]}...{text[-50:]}'            # the end of a path says most
