"""Play with a trained generator in a browser: python viewer.py --network=FILE"""

import click

from dnnlib import UserError
from dnnlib.util import user_errors

# What stands above comes before torch: dnnlib sets how torch's threads wait.
# isort: split

from dnnlib.commands import NETWORK, SETTINGS
from inference import neighbors
from inference.options import device_option
from metrics import detectors
from torch_utils import cpu_threads
from torch_utils.devices import torch_device
from viewing import networks as shown
from viewing import serve


@click.command(context_settings=SETTINGS)
@click.option('--network', 'names', help=f'Network: {NETWORK}; several are shown side by side', required=True,
              multiple=True, metavar='NETWORK')
@click.option('--data', help='Training images, to look for the nearest: folder or zip from dataset_tool.py, or demo',
              metavar='PATH|demo')
@click.option('--teacher', help='Teacher whose features are compared, such as demo, lite0, ViT-B/32  '
                                '[default: pixels are compared]', metavar='NAME')
@click.option('--host', help='Address of this machine to listen at; 0.0.0.0 = open to whoever reaches it',
              default=serve.LOOPBACK, show_default=True, metavar='ADDRESS')
@click.option('--port', help=f'Port  [default: the first free one from {serve.PORT} on]', type=click.IntRange(1, 65535),
              metavar='INT')
@device_option
def main(**opts):
    """Play with a trained generator in a browser: seeds, truncation, classes, mixtures of styles, walks.

    \b
    viewer.py --network=cats.safetensors
    viewer.py --network=with-kd.safetensors --network=without-kd.safetensors --data=cats.zip

    Needs the package gradio: pip install gradio. Nothing is asked from any other machine. From another machine:
    ssh -L 7860:localhost:7860 HOST, and the same address there.
    """
    with user_errors():
        view(**opts)


def view(names, data, teacher, host, port, device):
    """What the command does; options as of the command."""
    if teacher is not None and data is None:
        raise UserError(f'--teacher={teacher}', 'there is nothing to compare', 'name the training images with --data')
    device = cpu_threads.settle(torch_device(device))
    serve.serve(lambda: shown.load_all(names, device), lambda networks: training_images(networks, data, teacher),
                host, port)


def training_images(networks, data, teacher):
    """{name: `Real`} of the networks whose images have the size of the data. Raises UserError if none has."""
    if data is None:
        return {}
    features, distance = neighbors.pixel_features, neighbors.pixel_distance
    if teacher is not None:
        how = dict(func_name='kd_plugin.teacher.load_teacher', name=teacher, option='--teacher')
        features = neighbors.unit_features(detectors.load_teacher_detector(networks[0].device, how))
        distance = neighbors.cosine_distance
    found, refused = {}, []
    for network in networks:
        try:
            dataset = neighbors.open_training_images(data, None, network.snapshot, network.given)
            found[network.name] = shown.Real(dataset, features, distance)
        except UserError as err:
            refused.append((network.name, err))
    if not found:
        raise refused[0][1]
    for name, err in refused:
        print(f'{name}: without its nearest training images ({err.fact})')
    return found


if __name__ == '__main__':
    main()
