"""The texts of CGKD: presets, files, and what the data set says of itself."""

import pathlib

import pytest
import torch

from dnnlib import UserError
from kd_plugin import prompts

F = torch.nn.functional


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('KDGAN_CACHE_DIR', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


# -- texts

@pytest.mark.parametrize('name, class_names, first, count', [
    ('100-shot-obama', None, 'a photo of Barack Obama.', 32),
    ('100-shot-grumpy_cat', None, 'a photo of Grumpy Cat.', 26),
    ('AnimalFace-cat', None, 'a photo of a cat.', 34), ('cifar10-32', None, 'a photo of a airplane.', 10),
    ('cifar100', None, 'a photo of a apple.', 100), ('imagenet64', None, 'a photo of a tench.', 1000),
    ('mine', ['red_rose', 'tulip'], 'a photo of a red rose.', 2), ('mine', ['one'], 'a photo of a person.', 67),
    ('mine', None, 'a photo of a person.', 67), ('demo32', None, 'a happy face', 31)])
def test_auto_texts_recognise_the_data(name, class_names, first, count):
    texts, origin = prompts.resolve_texts('auto', name, class_names)
    assert (texts[0], len(texts)) == (first, count) and origin
    assert len(set(texts)) == len(texts)


def test_released_texts_are_cifar10_whatever_the_data():
    texts, _ = prompts.resolve_texts('released', 'cifar100', ['apple', 'bear'])
    assert texts[:2] == ['a airplane', 'a automobile'] and len(texts) == 10


@pytest.mark.parametrize('name', prompts.PRESETS)
def test_every_preset_has_texts(name):
    texts, _ = prompts.resolve_texts(name, 'x')
    assert len(texts) >= 10 and all(text.strip() == text for text in texts)


def test_texts_from_a_file(tmp_path):
    path = tmp_path / 'texts.txt'
    path.write_text('# mine\n a red car \n\na blue car\n')
    assert prompts.resolve_texts(str(path), 'x') == (['a red car', 'a blue car'], f'file {path.name}')
    path.write_text('# nothing\n')
    with pytest.raises(UserError, match='texts.txt: the file has no text'):
        prompts.resolve_texts(str(path), 'x')
    with pytest.raises(UserError, match='--kd-texts=nosuch: there is no such file and no such preset; presets: '
                                        'auto, obama'):
        prompts.resolve_texts('nosuch', 'x')



def test_names_of_imagenet():
    """CLIP's, which tell apart what WordNet's do not, and each of them once."""
    names = prompts.class_names_of('imagenet')
    known = {4: 'hammerhead shark', 7: 'rooster', 15: 'American robin', 21: 'kite (bird of prey)', 134: 'crane bird',
             517: 'construction crane', 657: 'missile', 677: 'metal nail', 744: 'projectile', 836: 'sunglass',
             837: 'sunglasses', 999: 'toilet paper'}
    assert {i: names[i] for i in known} == known and len(names) == len(set(names)) == 1000


def test_text_files_lie_in_the_package():
    files = {path.stem for path in pathlib.Path(prompts.TEXT_DIR).glob('*.txt')}
    assert files == {preset.file for preset in prompts.PRESETS.values()}
