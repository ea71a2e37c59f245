"""What a run says of itself at its start."""

import os

from .find import OPTIONS_FILE


def lines(config, run_dir, continued):
    """Data, length, methods, metrics and folder of a run, a line each; everything else is in its options file."""
    data, side = config.training_set_kwargs, config.training_set_kwargs['resolution']
    images = [f'{data["max_size"]} images of {side}x{side}', *['and mirrored ones'] * data['xflip'],
              *['with labels'] * data['use_labels']]
    processes = f' by {config.num_gpus} processes' if config.num_gpus > 1 else ''
    every = f'every {config.kimg_per_tick * config.network_snapshot_ticks:g} kimg'
    return [f'Training images:   {data["path"]} ({", ".join(images)})',
            f'Training:          {config.total_kimg:g} kimg, {config.batch_size} images per step{processes}, on '
            f'{config.device}',
            *([f'Methods:           {", ".join(config.terms)}'] if config.terms else []),
            f'Snapshots:         {every}' + (f', measured by {", ".join(config.metrics)}' if config.metrics else ''),
            f'Output directory:  {run_dir}' + (' (continued)' if continued else ''),
            f'All options:       {os.path.join(run_dir, OPTIONS_FILE)}']
