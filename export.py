"""Save a trained generator for other programs: python export.py --network=FILE --format=onnx --dest=generator.onnx"""

import os

import click

from dnnlib import UserError, files
from dnnlib.commands import SETTINGS
from dnnlib.util import user_errors
from inference import export_check, export_files, export_web
from inference import latents as sampling
from inference.options import network_option
from training import model_files
from training.networks.architectures import abilities_of, require

CHOICES = dict(input='z', noise_mode='const', opset=18)         # of the formats that record a computation


def check_options(network, format, dest, runtime, choices):
    """Raises UserError unless the options go together; choices: {name: value, None = not given}."""
    extension = export_files.FORMATS[format].extension
    if extension and os.path.splitext(dest)[1] != extension:
        raise UserError(f'--dest={dest}: a file of --format={format} ends in {extension}')
    if os.path.exists(dest) and os.path.exists(network) and os.path.samefile(network, dest):
        raise UserError(f'--dest={dest}: is the network itself; name another file')
    for name, value in choices.items():
        if value is not None and name not in export_files.FORMATS[format].choices:
            raise UserError(f'--{name.replace("_", "-")}={value}: --format={format} has no such choice; leave it out')
    if format == 'web':
        export_web.check_runtime(runtime)
    elif runtime is not None:
        raise UserError(f'--runtime={runtime}', f'--format={format} takes no runtime with it', 'leave it out')
    export_files.require_packages(format)
    if choices['opset'] is not None:
        export_files.check_opset(choices['opset'])


def load_generator(network):
    """-> (G_ema on the CPU, info of its snapshot, path of the file)."""
    path = model_files.locate(network)
    snapshot = model_files.load_snapshot(path, 'cpu')
    return snapshot.G_ema, snapshot.info, path


@click.command(context_settings=SETTINGS)
@network_option
@click.option('--format', help='Kind of file: for ONNX runtimes, for torch without this project, a snapshot with '
                               'the averaged generator alone, or a page that runs it in a browser',
              type=click.Choice(list(export_files.FORMATS)), required=True)
@click.option('--dest', help='File to write, ending in .onnx, .pt or .safetensors; of web, the folder', required=True,
              metavar='FILE|DIR')
@click.option('--input', help='Latents it takes: z, or w for each layer  [default: z]', type=click.Choice(['z', 'w']))
@click.option('--noise-mode', help='Noise of the synthesis: fixed, or none  [default: const]',
              type=click.Choice(['const', 'none'], case_sensitive=False))
@click.option('--opset', help='Version of the ONNX operators  [default: 18]', type=click.IntRange(min=18),
              metavar='INT')
@click.option('--runtime', help=f'Package onnxruntime-web, for web: folder, or file of "{export_web.GET_IT}"',
              metavar='FILE|DIR')
def main(**opts):
    """Save a trained generator for other programs.

    The file is read back and compared with the network on random inputs; it is there only if both give the same images.
    """
    with user_errors():
        export(**opts)


def export(network, format, dest, runtime=None, **choices):
    """What the command does; options as of the command."""
    dest = dest.rstrip('/') or dest
    check_options(network, format, dest, runtime, choices)
    files.make_dir(os.path.dirname(dest) or '.')
    G, info, path = load_generator(network)
    choices = {name: CHOICES[name] if value is None else value for name, value in choices.items()}
    if choices['input'] == 'w':
        require(abilities_of(G), 'w', '--input=w', 'use --input=z')
    sampling.check_noise(choices['noise_mode'], G)
    job = export_files.Export(format, G, info, latents=choices['input'], noise_mode=choices['noise_mode'],
                              opset=choices['opset'],
                              source=dict(source=os.path.basename(files.public_address(network)),
                                          source_sha256=files.sha256_of_file(path)))
    with export_web.folder(dest, runtime, job) if format == 'web' else files.atomic_path(dest) as temp:
        export_files.write(temp, job)
        count, difference = export_check.largest_difference(export_files.read(temp, job), job)
        size = os.path.getsize(temp)
    what = 'generator: ' if format == 'web' else ''
    print(f'Saved {dest} ({what}{size / 1e6:.1f} MB): {count} images from random inputs differ from those of the '
          f'network by at most {difference:.1g}')


if __name__ == '__main__':
    main()
