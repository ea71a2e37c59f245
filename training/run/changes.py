"""In what the configurations of two commands differ, and which differences a run survives when it is continued."""

import json
import os
import re

# May differ when a run is continued: none of these changes what is trained. What follows a point is part of a table.
FREE = ('total_kimg', 'run_dir', 'snapshot_keep', 'snapshot_networks', 'image_snapshot_ticks', 'network_snapshot_ticks', 'grid_images',
        'metrics', 'metric_kwargs', 'metric_set_kwargs', 'data_loader_kwargs', 'cudnn_benchmark', 'bad_steps_kwargs',
        'observers', 'fork_origin', 'batch_gpu_probed', 'loss_kwargs.kd_kwargs.texts_origin')
OPTION_OF = {
    'random_seed': '--seed', 'kd_kwargs.seed': '--seed', 'num_gpus': '--gpus', 'device': '--device', 'batch_size': '--batch',
    'batch_gpu': '--batch-gpu', 'training_set_kwargs.path': '--data', 'training_set_kwargs.max_size': 'images',
    'training_set_kwargs.xflip': '--mirror', 'training_set_kwargs.use_labels': '--cond', 'training_set_kwargs.random_seed': '--seed',
    'kimg_per_tick': '--tick', 'r1_gamma': '--gamma', 'ada_target': '--target', 'augment_p': '--p',
    'augment_ramp_kimg': '--p-kimg', 'init_from': '--init-from',
    'fork_from': '--fork-from', 'allow_tf32': '--allow-tf32', 'conv_tf32': '--allow-tf32',
    'channels_last': '--nhwc', 'fp32': '--fp32', 'teacher_fp32': '--fp32',
    'compile': '--compile', 'cuda_graphs': '--cuda-graphs', 'kd_kwargs.methods': '--kd',
    'kd_kwargs.teacher': '--kd-teacher', 'kd_kwargs.texts': '--kd-texts', 'settings.teacher_input': '--kd-input',
    'block_kwargs.freeze_layers': '--freezed',
}
OF_PRECISION = ('num_fp16_res', 'half_dtype', 'conv_clamp', 'teacher_fp32')
FOLLOWS = (*OF_PRECISION, 'fp16_channels_last')                 # from --device, --fp32 and --nhwc, which differ, too
HAVE_PRECISION = ('fp32', 'G_kwargs', 'D_kwargs', 'loss_kwargs', 'terms')           # top-level entries that are of it, or have some of it
# Where classes lay that the configurations of earlier runs name.
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
# Values that runs were trained with before their configurations named them.
UNWRITTEN = dict(G_reg_interval=4, D_reg_interval=16, D_steps=1, ada_interval=4, ada_kimg=500)
MOST = 6                        # differences that a message lists


def with_present_names(value):
    """A configuration in which each class is named by where it lies now."""
    if isinstance(value, dict):
        return {key: RENAMED.get(item, item) if key == 'class_name' else with_present_names(item) for key, item in value.items()}
    return value


def differences(saved, config):
    """['--seed=0, now 1', ...]: where two configurations differ in what matters to a run. What one does not know is off there."""
    saved, config = _comparable(saved), _comparable(json.loads(json.dumps(config)))
    if saved.pop('fp32_auto', None) and config.pop('fp32_auto', None):          # each as its processor has it: the run keeps to what it began with
        counts = lambda key: key.rpartition('.')[2] not in ('fp32', *OF_PRECISION)
        saved, config = ({key: value for key, value in flat.items() if counts(key)} for flat in (saved, config))
    config.pop('fp32_auto', None)
    keys = [key for key in {**saved, **config} if not _same(saved.get(key), config.get(key))]
    keys = [key for key in keys if not _is_free(key, saved, config)]
    keys = [key for key in keys if key.rpartition('.')[2] not in FOLLOWS] or keys
    return list(dict.fromkeys(f'{_option(key)}={_short(saved.get(key))}, now {_short(config.get(key))}' for key in keys))


def _same(a, b):
    """Whether two values mean the same: what is off may be missing, and a file has many paths."""
    if isinstance(a, str) and isinstance(b, str):
        return a == b or (os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b))
    on = lambda value: None if value is False else value
    return on(a) == on(b)


def with_data_at(config, path):
    """A configuration as it would be with its images at `path`."""
    config = dict(config, training_set_kwargs=dict(config.get('training_set_kwargs') or {}, path=path))
    kd = config.get('loss_kwargs', {}).get('kd_kwargs')
    if kd is not None:
        kd = dict(kd, training_set_kwargs=dict(kd.get('training_set_kwargs') or {}, path=path))
        config['loss_kwargs'] = dict(config['loss_kwargs'], kd_kwargs=kd)
    return config


def other_reference(saved, config):
    """A line if the metrics of a run that is continued are from now on against other images; else None."""
    before, now = [(c.get('metric_set_kwargs') or c['training_set_kwargs'])['path'] for c in (saved, config)]
    if _same(before, now) or not config['metrics']:
        return None
    return (f'Metrics are measured against {now} from now on, so far against {before}: values against other images are '
            'not compared, --early-stop begins to count anew, and --snapshot-keep=best keeps the best by each.')


def found_out(saved):
    """The entries of a configuration that a run found out at its start and goes by to its end."""
    found = {key: saved[key] for key in ('fork_origin', 'batch_gpu_probed', *(HAVE_PRECISION if saved.get('fp32_auto') else ())) if key in saved}
    return dict(found, batch_gpu=found['batch_gpu_probed']) if 'batch_gpu_probed' in found else found


def refusal(run_dir, lines):
    """The sentence for a command that means a run and differs from it."""
    listed = '; '.join(lines[:MOST]) + (f'; ... ({len(lines)} in all)' if len(lines) > MOST else '')
    return (f'{run_dir} is not complete and was started with {listed}. To continue it, give the options that it was started with; '
            f'use --new-run=1 for another run, or --fork-from={run_dir} to start one from its state on purpose')


def same_name(name, description):
    """Whether a run directory's name is that of a command, its number and the number of processes aside."""
    return without_processes(name.partition('-')[2]) == without_processes(description)


def without_processes(name):
    """'x-auto8-gamma5' -> 'x-auto-gamma5'."""
    return re.sub(r'-auto\d+(?=-|$)', '-auto', name)


def _flat(table, prefix=''):
    """{'a.b': value} of a nested table."""
    flat = {}
    for key, value in table.items():
        flat.update(_flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value})
    return flat


def _comparable(config):
    """A flat, complete configuration in which --batch-gpu=auto, while it is not probed, is a value of batch_gpu."""
    flat = {**UNWRITTEN, **_flat(config)}
    if flat.pop('batch_gpu_auto', None) and flat.get('batch_gpu_probed') is None:
        flat['batch_gpu'] = 'auto'
    return flat


def _is_free(key, saved, config):
    probed = key == 'batch_gpu' and config.get('batch_gpu') == 'auto' and 'batch_gpu_probed' in saved
    return probed or key in FREE or key.partition('.')[0] in FREE


def _option(key):
    """What a user calls an entry of the configuration."""
    known = next((option for name, option in OPTION_OF.items() if key == name or key.endswith('.' + name)), None)
    if known is None and '.kd_kwargs.settings.' in key:
        return f'--kd-{key.rpartition(".")[2].replace("_", "-")}'
    return known or key


def _short(value):
    if isinstance(value, list) and len(value) > 3:
        return f'{value[0]}, ... ({len(value)} in all)'
    text = str(int(value) if isinstance(value, bool) else value)
    return text if len(text) <= 80 else f'{text[:30]}...{text[-50:]}'            # of a path the end tells most
