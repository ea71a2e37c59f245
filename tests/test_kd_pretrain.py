"""A teacher of one's own: what it learns from, that stopping changes nothing, and what the demo teacher can do."""

import json
import os
import signal

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import run_cli

from dnnlib import UserError
from kd_plugin import pretrain
from kd_plugin.pretraining import data as pretrain_data
from kd_plugin.pretraining.data import CaptionedImages, DemoFaces, items_of_gan
from kd_plugin.teacher import load_teacher
from kd_plugin.teachers import tiny_clip
from training.dataset import ImageFolderDataset
from training.dataset import demo as demo_data

F = torch.nn.functional
SMALL = ['--size=16', '--width=8', '--dim=16', '--text-width=16', '--batch=16', '--lr=2e-3', '--device=cpu']


def make_images(folder, count=20):
    """Red and blue pictures in a folder per class."""
    rng = np.random.default_rng(0)
    for name, colour in [('red_things', (200, 30, 30)), ('blue_things', (30, 30, 200))]:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(np.array(colour) + rng.integers(-30, 30, size=(16, 16, 3)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / name / f'{i:02d}.png')
    return str(folder)


@pytest.fixture
def data(tmp_path):
    return make_images(tmp_path / 'data')


# -- the demo teacher

def test_demo_teacher_tells_unseen_faces_apart():
    """Zero-shot, on pictures of a stream that training never drew from; chance is 0.1 to 0.33."""
    accuracy = DemoFaces(32).accuracy(load_teacher('demo'), count=100)
    assert set(accuracy) == set(demo_data.ATTRIBUTES)
    assert min(accuracy.values()) > 0.95, accuracy


def test_training_on_faces_improves_it(tmp_path):
    faces = DemoFaces(16)
    training = pretrain.Pretraining(faces, steps=50, batch=32, lr=2e-3, seed=0, width=8, dim=16)
    while training.step < training.steps:
        training.advance()
    assert faces.accuracy(training.teacher(), count=60)['background'] > 0.3            # chance is 0.1
    path = str(tmp_path / 't.safetensors')
    tiny_clip.save_tiny_clip(training.model, path, notes={})
    teacher = load_teacher(path)
    img = torch.rand(3, 3, 16, 16) * 2 - 1
    # Already of half precision
    torch.testing.assert_close(teacher.encode_image(img), training.model.image_features(img).detach())
    torch.testing.assert_close(teacher.encode_text(['a happy face']), teacher.encode_text(['A  happy, face!']))


# -- the command

def test_command_learns_classes_and_makes_a_teacher(data, tmp_path):
    out = str(tmp_path / 'out')
    args = [f'--data={data}', f'--out={out}', '--steps=30', *SMALL]
    code, text = run_cli(pretrain.main, *args)
    assert (code == 0 and 'zero-shot accuracy on unseen images, class: 1.000' in text and 'ETA' in text
            and f'--kd-teacher={out}' in text)
    assert sorted(os.listdir(out)) == ['pretraining.json', 'teacher.safetensors']
    record = json.loads((tmp_path / 'out' / 'pretraining.json').read_text())
    assert (record['zero_shot_accuracy'] == {'class': 1.0} and record['data']['trained_on'] == 36
            and record['data']['name'] == 'data')
    teacher = load_teacher(out)
    assert teacher.dim == 16 and teacher.preprocess.size == 16
    assert 'is complete' in run_cli(pretrain.main, *args)[1]
    code, text = run_cli(pretrain.main, *args, '--steps=40')
    assert (code == 1
            and 'pretraining.json: is of a training with steps = 30, now it is 40; choose another --out' in text)


def test_stopped_and_continued_is_the_same_training(data, tmp_path, monkeypatch):
    """Ctrl-C in the middle, twice, then the same command: the very weights of an uninterrupted training."""
    args, threads = [f'--data={data}', '--steps=10', *SMALL], []            # the fewest
    monkeypatch.setattr(pretrain.cpu_threads, 'settle', lambda _device, recorded: threads.append(recorded))
    assert run_cli(pretrain.main, *args, f'--out={tmp_path / "whole"}')[0] == 0
    advance = pretrain.Pretraining.advance

    def interrupted(training):
        if training.step in (3, 7):
            os.kill(os.getpid(), signal.SIGINT)
        return advance(training)
    monkeypatch.setattr(pretrain.Pretraining, 'advance', interrupted)
    args.append(f'--out={tmp_path / "parts"}')
    for step in (4, 8):
        code, text = run_cli(pretrain.main, *args)
        assert code == 130 and f'Stopped after step {step} of 10; the state is in' in text
        assert os.listdir(tmp_path / 'parts') == ['pretraining-state.safetensors']
    code, text = run_cli(pretrain.main, *args, '--steps=20')
    assert code == 1 and 'is of a training with steps = 10, now it is 20' in text
    assert run_cli(pretrain.main, *args)[0] == 0
    assert threads == [None, None, *[torch.get_num_threads()] * 2]
    whole, parts = [load_teacher(str(tmp_path / name)).encoder.state_dict() for name in ('whole', 'parts')]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_bf16_learns_as_well(data, tmp_path):
    code, text = run_cli(pretrain.main, f'--data={data}', f'--out={tmp_path / "out"}', '--steps=30',
                         '--precision=bf16', *SMALL)
    assert code == 0 and 'class: 1.000' in text


@pytest.mark.parametrize('option, message', [
    ('--width=12', '--width=12 --text-width=16: must be multiples of 8 and of 4'),
    ('--exclude-subset=39', '1 images are left to learn from; give more of them, or exclude fewer'),
    ('--texts=nowhere.txt', '--texts=nowhere.txt: cannot be read'),
    ('--data=nowhere.zip', 'nowhere.zip: no such file or folder')])
def test_wrong_options(data, tmp_path, option, message):
    code, text = run_cli(pretrain.main, f'--data={data}', f'--out={tmp_path / "out"}', *SMALL, option)
    assert code == 1 and message in text


@pytest.mark.parametrize('option', ['--exclude-subset=5', '--test-data=x', '--texts=x.json', '--mirror=0',
                                    '--shift=0'])
def test_demo_takes_no_options_of_data_sets(option, tmp_path):
    code, text = run_cli(pretrain.main, '--data=demo', f'--out={tmp_path}', option)
    assert code == 1 and f'{option}: has no effect with --data=demo' in text


# -- what is learnt from

def test_excluded_subset_is_what_a_gan_trains_on(data):
    """None of the images of `train.py --subset=N --seed=SEED` is trained on or tested on, and all others are."""
    for seed in (0, 5):
        gan = ImageFolderDataset(data, max_size=15, random_seed=seed)
        used = {gan.files.names[gan.get_details(i).raw_idx] for i in range(len(gan))}
        assert {gan.files.names[i] for i in items_of_gan(data, 15, seed)} == used and len(used) == 15
        images = CaptionedImages(data, 16, exclude_subset=15, seed=seed)
        names = ImageFolderDataset(data).files.names
        train, test = ({names[i] for i in items} for items in (images.train_items, images.test_items))
        assert not train & test and not (train | test) & used and train | test | used == set(names)
    assert set(items_of_gan(data, 15, 0)) != set(items_of_gan(data, 15, 5))


def test_excluded_images_are_those_of_a_gan_with_held_out_ones(data):
    parts = [ImageFolderDataset(data, val_fraction=0.25, random_seed=3, **part)
             for part in (dict(max_size=9), dict(part='validation'))]
    gan = {part.files.names[part.get_details(i).raw_idx] for part in parts for i in range(len(part))}
    images, names = CaptionedImages(data, 16, exclude_subset=9, seed=3, val_fraction=0.25), parts[0].files.names
    assert len(gan) == 19 and {names[i] for i in [*images.train_items, *images.test_items]} == set(names) - gan
    held_out = set(items_of_gan(data, 0, 3, 0.25))
    assert len(held_out) == 10 and {names[i] for i in held_out} < gan


def test_images_and_texts_belong_together(data):
    """Unaugmented, every image of a batch is one of the data set, under a caption of its class."""
    images = CaptionedImages(data, 16, mirror=False, shift=0)
    img, captions = images.batch((0, 3), 12)
    assert img.shape == (12, 3, 16, 16) and img.abs().max() <= 1
    red, _green, blue = img.mean([2, 3]).unbind(1)
    assert ['red' in caption for caption in captions] == (red > blue).tolist()
    assert all('things' in caption for caption in captions)
    assert torch.equal(images.batch((0, 3), 12)[0], img) and not torch.equal(images.batch((0, 4), 12)[0], img)
    originals = images.images.float() / 127.5 - 1
    assert all((originals == one).all(dim=(1, 2, 3)).any() for one in img)


def test_crops_are_those_of_each_image():
    img = torch.rand(3, 2, 9, 9)
    top, left = torch.tensor([0, 2, 3]), torch.tensor([1, 0, 3])
    got = pretrain_data._crop(img, top, left, 6)
    for i in range(3):
        assert torch.equal(got[i], img[i, :, top[i]:top[i] + 6, left[i]:left[i] + 6])


def test_captions_from_a_file(data, tmp_path):
    """A caption per image, or several; tested by which of the captions of the images kept out is the image's own."""
    names = ImageFolderDataset(data).files.names
    captions = {name: ['a crimson square', 'red'] if 'red' in name else 'an azure square' for name in names}
    path = tmp_path / 'captions.json'
    path.write_text(json.dumps(captions))
    images = CaptionedImages(data, 16, texts=str(path))
    assert images.vocabulary() == ['a', 'an', 'azure', 'crimson', 'red', 'square']
    assert images.candidates == ['a crimson square', 'an azure square']
    code, text = run_cli(pretrain.main, f'--data={data}', f'--texts={path}', f'--out={tmp_path / "out"}',
                         '--steps=30', *SMALL)
    assert code == 0 and 'zero-shot accuracy on unseen images, caption: 1.000' in text
    del captions[names[0]]
    path.write_text(json.dumps(captions))
    with pytest.raises(UserError, match=f'there is no caption for the image {names[0]}'):
        CaptionedImages(data, 16, texts=str(path))
    for content in ('[]', '{"a": 3}', '{"a": ""}', 'x'):
        path.write_text(content)
        with pytest.raises(UserError, match=r'--texts=.*captions\.json: cannot be used'):
            CaptionedImages(data, 16, texts=str(path))


def test_templates_from_a_file(data, tmp_path):
    path = tmp_path / 'templates.txt'
    path.write_text('# mine\na drawing of {}\n')
    images = CaptionedImages(data, 16, texts=str(path))
    assert images.candidates == ['a drawing of blue things', 'a drawing of red things']
    path.write_text('a drawing\n')
    with pytest.raises(UserError, match='a drawing is no template; write one per line, with {} for the class name'):
        CaptionedImages(data, 16, texts=str(path))


def test_a_test_set_of_its_own(data, tmp_path):
    images = CaptionedImages(data, 16, test_path=make_images(tmp_path / 'test', count=3))
    assert (len(images.images), len(images.test_images), images.facts['tested_on']['images']) == (40, 6, 6)
    os.rename(tmp_path / 'test' / 'red_things', tmp_path / 'test' / 'green_things')
    with pytest.raises(UserError, match=r"--test-data=.*: its classes are \['blue_things', 'green_things'\], those of "
                                        r"--data are"):
        CaptionedImages(data, 16, test_path=str(tmp_path / 'test'))


def test_images_without_names(tmp_path):
    PIL.Image.new('RGB', (16, 16)).save(tmp_path / 'a.png')
    with pytest.raises(UserError, match='the images have no class names; rebuild it'):
        CaptionedImages(str(tmp_path), 16)


def test_damaged_and_foreign_teacher_files(tmp_path):
    path = tmp_path / 't.safetensors'
    with pytest.raises(UserError, match=r't\.safetensors does not exist; make a teacher with python -m '
                                        r'kd_plugin\.pretrain --out=DIR'):
        load_teacher(str(path))
    with pytest.raises(UserError, match=r'teacher\.safetensors does not exist; make a teacher .*; a folder of Hugging '
                                        r'Face is hf:DIR'):
        load_teacher(str(tmp_path))
    path.write_bytes(b'nothing')
    with pytest.raises(UserError, match='is damaged'):
        load_teacher(str(path))
    from torch_utils import checkpoint
    checkpoint.save(str(path), 'network', {}, {})
    with pytest.raises(UserError, match="is not a teacher: its format is 'kdgan-network'"):
        load_teacher(str(path))


def test_a_damaged_state_of_a_training(tmp_path):
    (tmp_path / 'state').write_bytes(b'nothing')
    with pytest.raises(UserError, match='state: the file is damaged .*; delete it, and the same command starts afresh'):
        pretrain.Pretraining.load(None, str(tmp_path / 'state'), {})
