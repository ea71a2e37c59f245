"""The network that comes with the project: what it is, how it was made, and that the demo starts from it."""

import json
import os
import pathlib
import re

import numpy as np
import pytest
import torch
from conftest import parse_options, run_cli

import train
from dnnlib import UserError
from torch_utils import checkpoint
from training import model_files, networks
from training.dataset import demo as demo_data
from training.dataset import demo_relatives
from training.run import changes as run_changes
from training.run import demo_network
from training.snapshots import files as snapshots
from training.training_loop import Run

MAKEFILE = (pathlib.Path(__file__).parent.parent / 'Makefile').read_text()
IMAGE, WIDTH = dict(c_dim=0, img_resolution=8, img_channels=3), dict(channel_base=32, channel_max=4)
KWARGS = dict(G=dict(IMAGE, z_dim=4, w_dim=4, synthesis_kwargs=WIDTH), D=dict(IMAGE, **WIDTH))


@pytest.fixture(scope='module')
def shipped():
    return snapshots.load_networks(model_files.locate('demo', '--init-from'))


def test_it_was_made_by_the_command_in_the_makefile(shipped, tmp_path):
    """From its own account: the very drawings, and every option."""
    path = str(tmp_path / 'relatives.zip')
    assert run_cli(demo_relatives.main, f'--dest={path}')[0] == 0
    options = re.search(r'^DEMO_NETWORK := ((?:.*\\\n)*.*)$', MAKEFILE, re.M)[1].replace('\\\n', '')
    options = options.replace('$(RELATIVES)', path).split()
    config, _name = train.build_config(parse_options(f'--outdir={tmp_path}', '--device=cpu', *options))
    said = shipped.info['training']['options']
    config.training_set_kwargs['path'] = 'relatives.zip'
    assert run_changes.differences(said, config) == [] and said['total_kimg'] == config.total_kimg
    assert shipped.info['training']['cur_nimg'] == pytest.approx(1000 * config.total_kimg, abs=config.batch_size)
    dataset = train.dnnlib.util.construct_class_by_name(**dict(config.training_set_kwargs, path=path))
    assert dataset.content_hash() == shipped.info['training']['dataset']['content_hash']
    dataset.close()


def test_it_is_small_and_says_nothing_of_where_it_was_made():
    assert os.path.getsize(model_files.DEMO_NETWORK) < 2 ** 20
    tensors, info = checkpoint.load(model_files.DEMO_NETWORK, 'network')            # verifies the checksum
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert set(re.findall(r'"([^" ]*/[^"]*)"', json.dumps(info))) == {'ViT-B/32'}           # no folder


def test_its_drawings_are_not_those_of_the_demo():
    relatives = np.stack(list(demo_relatives.relatives(32, 300))).astype(np.float32)
    faces = np.stack([image for image, _attributes in demo_data.demo_images(32)]).astype(np.float32)
    among_faces = np.sort([np.abs(faces - face).mean((1, 2, 3)) for face in faces], axis=1)[:, 1]
    to_relatives = [np.abs(relatives - face).mean((1, 2, 3)).min() for face in faces]
    assert min(to_relatives) > 4 and np.median(to_relatives) > np.median(among_faces) > 10          # of 255


def test_the_demo_starts_from_all_of_it(shipped, tmp_path, capsys):
    options = f'--outdir={tmp_path}', '--data=demo', '--cfg=demo', '--init-from=demo', '--device=cpu'
    config, name = train.build_config(parse_options(*options))
    job = Run(config, str(tmp_path), torch.device('cpu'))
    found = re.findall(r'^(\w+): (\d+) of (\d+) tensors from demo$', capsys.readouterr().out, re.M)
    assert ([name for name, _copied, _of in found] == ['G', 'D', 'G_ema']
            and all(copied == of for _, copied, of in found))
    for network, source in (('G', 'G_ema'), ('G_ema', 'G_ema'), ('D', 'D')):
        state = getattr(job.training, network).state_dict()
        assert all(torch.equal(state[key], value) for key, value in shipped.networks[source].state_dict().items())
    assert name.startswith('demo32-demo-init')


@pytest.fixture
def run(tmp_path):
    """A folder with two small snapshots of a run."""
    kinds = dict(G='Generator', G_ema='Generator', D='Discriminator')
    kwargs = {name: dict(class_name=f'training.networks.{kind}', **KWARGS[name[0]]) for name, kind in kinds.items()}
    training = dict(cur_nimg=8000, options=dict(training_set_kwargs=dict(path='/home/anna/relatives.zip')))
    for kimg in (4, 8):
        torch.manual_seed(kimg)
        made = {name: getattr(networks, kind)(**KWARGS[name[0]]) for name, kind in kinds.items()}
        snapshots.save_networks(str(tmp_path / f'network-snapshot-{kimg:06d}.safetensors'), made, kwargs, training)
    return tmp_path


def test_shrinking(run, tmp_path):
    """Half the bytes, no G, no folder; read as float32 with the rounded values of the last snapshot."""
    dest = str(tmp_path / 'small.safetensors')
    code, output = run_cli(demo_network.main, str(run), f'--dest={dest}')
    assert code == 0 and 'small.safetensors' in output, output
    before = snapshots.load_networks(str(run / 'network-snapshot-000008.safetensors'))
    after = snapshots.load_networks(dest)
    assert set(after.networks) == {'G_ema', 'D'}
    assert after.info['training']['options']['training_set_kwargs']['path'] == 'relatives.zip'
    for name, module in after.networks.items():
        for key, value in module.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, before.networks[name].state_dict()[key].half().float()), key
    tensors = checkpoint.load_tensors(dest)
    assert all(value.dtype == torch.float16 for value in tensors.values())


def test_shrinking_what_does_not_suit(tmp_path):
    code, output = run_cli(demo_network.main, str(tmp_path))
    assert code == 1 and f'{tmp_path}: there is no snapshot in it' in output
    G = networks.Generator(**KWARGS['G'])
    path = str(tmp_path / 'x.safetensors')
    kwargs = dict(class_name='training.networks.Generator', **KWARGS['G'])
    snapshots.save_networks(path, dict(G_ema=G), dict(G_ema=kwargs), {})
    with pytest.raises(UserError, match='there is no D in it; train with --snapshot-networks=all'):
        demo_network.shrink(path, str(tmp_path / 'y.safetensors'))
