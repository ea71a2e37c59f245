"""What the tests of metrics share: random pictures as a data set, snapshots made for it, detectors that see pixels."""

import io
import json
import zipfile

import numpy as np
import PIL.Image
import torch
from click.testing import CliRunner

import calc_metrics
from kd_plugin.teacher import Preprocess, Teacher
from training.networks import Generator
from training.snapshots import files as snapshots

NETWORK = dict(z_dim=8, w_dim=8, img_resolution=16, mapping_kwargs=dict(num_layers=1),
               synthesis_kwargs=dict(channel_base=64, channel_max=8))


def picture(i, size=16, channels=3):
    return np.random.RandomState(i).randint(0, 256, [size, size, channels], dtype=np.uint8)


def make_data(path, num=12, size=16, channels=3, classes=3):
    with zipfile.ZipFile(path, 'w') as archive:
        for i in range(num):
            buffer = io.BytesIO()
            PIL.Image.fromarray(picture(i, size, channels).squeeze()).save(buffer, 'png')
            archive.writestr(f'class{i % classes}/{i:02d}.png', buffer.getvalue())
    return dict(class_name='training.dataset.ImageFolderDataset', path=str(path), use_labels=False, max_size=num,
                xflip=True, resolution=size)


def make_snapshot(path, data_kwargs, c_dim=0, img_channels=3, training=None, dataset=None):
    kwargs = dict(NETWORK, c_dim=c_dim, img_channels=img_channels)
    torch.manual_seed(0)
    if training is None:
        training = dict(options=dict(training_set_kwargs=data_kwargs), cur_nimg=12345, class_names=None,
                        dataset=dataset)
        (path.parent / 'training_options.json').write_text(json.dumps(training['options']))         # as a run has it
    snapshots.save_networks(str(path), dict(G_ema=Generator(**kwargs)),
                            dict(G_ema=dict(kwargs, class_name='training.networks.Generator')), training)
    return str(path)


def run(*args):
    """-> (exit code, what was printed)."""
    result = CliRunner().invoke(calc_metrics.main, ['--device=cpu', '--workers=0', *args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


class Pixels(torch.nn.Module):
    """An encoder whose features are a few pixels."""

    def image_features(self, x):
        return x[:, :, 0, :2].flatten(1)


def load_pixel_teacher(name, device):
    return Teacher(Pixels(), Preprocess(16, (0.5,) * 3, (0.5,) * 3), 6, f'pixels:{name}').to(device)

PIXELS = dict(func_name=f'{__name__}.load_pixel_teacher', name='a')


class ToyClasses(torch.nn.Module):
    """Called like the official network for the Inception score."""

    def forward(self, img, no_output_bias: bool = False):
        assert no_output_bias and img.dtype == torch.uint8, 'class probabilities of uint8 images only'
        return torch.softmax(img.to(torch.float32)[:, :, 0, 0].repeat(1, 2)[:, :4] / 20, dim=1)
