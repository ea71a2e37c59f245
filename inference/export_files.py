"""The formats of an exported generator: each is written, and read back as a function of the same inputs."""

import contextlib
import importlib
import io
import json
import logging
import warnings
import zipfile
from typing import Callable, NamedTuple

import torch

from dnnlib import UserError
from training.snapshots import files as snapshots

from .export_function import PlainOps, image_function, network_images, random_inputs
from .trained_on import labels_are_vectors

ONNX_LIMIT = 2 ** 31                # bytes in one protobuf message
ONNX_PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')


class Export(NamedTuple):
    """What to write."""
    format: str                     # a key of FORMATS
    G: torch.nn.Module              # G_ema, on the CPU
    info: dict                      # of its snapshot
    latents: str                    # 'z' or 'w'
    noise_mode: str                 # 'const' or 'none'
    opset: int                      # of ONNX
    source: dict                    # where G comes from, for the metadata

    @property
    def function(self):
        return image_function(self.G, self.latents, self.noise_mode)

    def inputs(self, n, truncation_psi=0.7, rng=None):
        return random_inputs(self.G, self.latents, n, truncation_psi, rng)

    @property
    def metadata(self):
        """{str: anything JSON can hold}: the information that users of the file need. The project's own format has
        `info` instead."""
        G = self.G
        meaning = dict(z=f'float32 [N, {G.z_dim}], normal random numbers',
                       w=f'float32 [N, {G.num_ws}, {G.w_dim}], latents of each layer',
                       c=f'float32 [N, {G.c_dim}], ' + ('the label' if labels_are_vectors(self.info)
                                                        else '1 for the class, else 0'),
                       truncation_psi='float32 scalar: 1 = none, less = more typical')
        return dict(self.source, images_seen=self.info['training'].get('cur_nimg'),
                    inputs={name: meaning[name] for name in self.inputs(1)},
                    output=f'img: float32 [N, {G.img_channels}, {G.img_resolution}, {G.img_resolution}], about -1 '
                           '(black) to 1 (white)',
                    resolution=G.img_resolution, class_names=self.info['training'].get('class_names'),
                    noise_mode=self.noise_mode)


@contextlib.contextmanager
def _recording():
    """Our operators as plain torch, without gradients; silences the exporters' remarks about themselves and about sizes
    that they take for constants: the file is tested by running it."""
    logs = [(log, log.level) for log in map(logging.getLogger, ('torch.onnx', 'onnxscript'))]
    logs[0][0].setLevel(logging.ERROR)
    # Its errors are tracebacks; a failure is found out below
    logs[1][0].setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad(), PlainOps():
            for category in (DeprecationWarning, FutureWarning, torch.jit.TracerWarning):
                warnings.simplefilter('ignore', category)
            yield
    finally:
        for log, level in logs:
            log.setLevel(level)


def write_torchscript(path, export):
    inputs = tuple(export.inputs(2).values())
    with _recording():
        traced = torch.jit.trace(export.function, inputs, check_trace=False)
        saved = io.BytesIO()
        torch.jit.save(traced, saved, _extra_files={'metadata.json': json.dumps(export.metadata)})
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, 'w') as file:
        for entry in source.infolist():
            # They quote this machine's paths, for the tracebacks of errors
            if not entry.filename.endswith('.debug_pkl'):
                file.writestr(entry, source.read(entry))


def read_torchscript(path, export):
    with _recording():
        module = torch.jit.load(path, map_location='cpu')
    return lambda **inputs: module(*inputs.values())


def write_onnx(path, export):
    import onnx
    import onnxscript
    size = sum(tensor.nbytes for tensor in export.function.state_dict().values())
    if size >= ONNX_LIMIT:
        raise UserError(f'--format={export.format}: the generator has {size / 2 ** 30:.1f} GB, a file holds less '
                        'than 2; use --format=torchscript')
    inputs = export.inputs(2)
    shapes = {name: {0: torch.export.Dim('N', min=1, max=2 ** 31 - 1)} if value.ndim else None
              for name, value in inputs.items()}
    with _recording():
        program = torch.export.export(export.function, tuple(inputs.values()), dynamic_shapes=shapes, strict=False)
        model = torch.onnx.export(program, dynamo=True, opset_version=export.opset, input_names=list(inputs),
                                  output_names=['img'], verbose=False).model_proto
    if model.opset_import[0].version != export.opset:
        raise UserError(f'--opset={export.opset}: torch {torch.__version__} and onnxscript {onnxscript.__version__} '
                        'cannot write this version; use a lower one')
    _only_what_runs(model)
    for key, value in export.metadata.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    onnx.save(model, path)


def _only_what_runs(model):
    """Takes out the exporter's notes, which quote our source and this machine's paths, and gives the number of images
    the name N."""
    graph = model.graph
    graph.ClearField('metadata_props')
    for part in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        part.ClearField('metadata_props')
    for value in [*graph.input, *graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = 'N'
    graph.ClearField('value_info')


def read_onnx(path, export):
    import onnxruntime
    try:
        session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    except Exception as err:                # its errors have no narrower class in common
        reason = str(err).partition('\n')[0]
        raise UserError(f'--opset={export.opset}: onnxruntime {onnxruntime.__version__} cannot load the file '
                        f'({reason}); use a lower one') from err
    return lambda **inputs: torch.from_numpy(session.run(['img'],
                                                         {name: value.numpy() for name, value in inputs.items()})[0])


def write_safetensors(path, export):
    snapshots.save_networks(path, dict(G_ema=export.G), dict(G_ema=export.info['networks']['G_ema']),
                            export.info['training'])


def read_safetensors(path, export):
    G = snapshots.load_networks(path).G_ema
    return lambda **inputs: network_images(G, inputs, export.noise_mode)


class Format(NamedTuple):
    extension: str
    write: Callable
    read: Callable
    choices: tuple[str, ...] = ()   # of the options of export.py
    packages: tuple[str, ...] = ()  # besides torch


FORMATS = dict(
    onnx=Format('.onnx', write_onnx, read_onnx, ('input', 'noise_mode', 'opset'), ONNX_PACKAGES),
    torchscript=Format('.pt', write_torchscript, read_torchscript, ('input', 'noise_mode')),
    safetensors=Format('.safetensors', write_safetensors, read_safetensors),
    # A folder, in which it is an ONNX file: see export_web
    web=Format('', write_onnx, read_onnx, ('noise_mode', 'opset'), ONNX_PACKAGES),
)


def check_opset(opset):
    """Raises UserError for a version of the ONNX operators that the installed onnx does not know."""
    import onnx
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise UserError(f'--opset={opset}: onnx {onnx.__version__} knows versions up to {newest}; use a lower one')


def write(path, export):
    """Writes `export` in its format to `path`, whatever its extension. Raises UserError or OSError if that is not
    possible."""
    FORMATS[export.format].write(path, export)


def read(path, export):
    """The file that `write` wrote -> function of `export.inputs(n)`, by name, -> img."""
    return FORMATS[export.format].read(path, export)


def require_packages(name):
    """Raises UserError if a package that the format `name` needs is not there."""
    for package in FORMATS[name].packages:
        try:
            importlib.import_module(package)
        except ImportError as err:
            raise UserError(f'--format={name}: the package {package} cannot be imported ({err}); '
                            f'pip install {" ".join(FORMATS[name].packages)}') from err
