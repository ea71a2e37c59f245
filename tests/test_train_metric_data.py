"""train.py --metric-data: other images for the metrics."""

import numpy as np
import PIL.Image
import pytest
from train_options import config_of

from dnnlib import UserError
from training.dataset import ImageFolderDataset
from training.run import changes as run_changes


def write_images(folder, classes=('blue', 'red'), size=16, mode='RGB'):
    for name in classes:
        (folder / name).mkdir(parents=True)
        PIL.Image.new(mode, (size, size), name).save(folder / name / '0.png')
    return str(folder)


def test_other_images_for_the_metrics(tiny_data, tmp_path):
    """They are no part of the run's name: what is trained is the same, and a run may be continued with others."""
    path = write_images(tmp_path / 'test')
    plain, name = config_of(tiny_data, '--cond=1')
    config, named = config_of(tiny_data, '--cond=1', f'--metric-data={path}')
    assert config.pop('metric_set_kwargs') == dict(class_name='training.dataset.ImageFolderDataset', path=path)
    assert config['options_given'].pop('metric_data') == 'test'
    assert config == plain and named == name
    config['metric_set_kwargs'] = dict(path=path)
    assert run_changes.differences(plain, config) == []
    assert run_changes.other_reference(plain, plain) is None
    line = f'Metrics are measured against {path} from now on, so far against {tiny_data}: '
    assert run_changes.other_reference(plain, config).startswith(line)


@pytest.mark.parametrize('images, args, message', [
    (dict(size=32), [], 'test: images are 32x32 RGB, the network makes 16x16 RGB; .*dataset_tool.py --width=16 --'),
    (dict(mode='L'), [], 'test: images are 16x16 grey, the network makes 16x16 RGB; .*--color=rgb'),
    (dict(classes=('blue', 'red', 'white')), ['--cond=1'],
     'test: labels have 3 dimensions, the network takes 2; .* one with the same classes'),
    (dict(classes=('green', 'red')), ['--cond=1'],
     "test: class 0 is 'green', in the training images 'blue'; .* folders with the same names"),
    (dict(), ['--metrics=none'], 'test: has no effect with --metrics=none'),
    (dict(), ['--metrics=is500,ppl_wend'], 'test: --metrics=is500,ppl_wend compares with no real images; leave it out'),
    (dict(), ['--metrics=fid500_full,memorization50'],
     'test: memorization50 looks for copies of the training .* calc_metrics.py --metrics=memorization50 --ref=.*tiny')])
def test_images_that_the_metrics_cannot_use(images, args, message, tiny_data, tmp_path):
    path = write_images(tmp_path / 'test', **images)
    with pytest.raises(UserError, match=f'--metric-data=.*{message}'):
        config_of(tiny_data, f'--metric-data={path}', *args)


def test_images_without_labels_for_the_metrics_of_classes(tiny_data, tmp_path):
    PIL.Image.new('RGB', (16, 16)).save(tmp_path / '0.png')
    message = (r'--metric-data=.*: the network takes labels of 2 dimensions; .*: 1 of 1 images have no label '
               r'\(0.png; .*\); use one with the same classes: one folder per class, with the same names as in the '
               r'training images \(blue, red\), made')
    with pytest.raises(UserError, match=message):
        config_of(tiny_data, '--cond=1', f'--metric-data={tmp_path}')


@pytest.mark.parametrize('sizes, problem', [([(16, 16), (20, 20)], 'is 20x20 RGB, others are 16x16 RGB'),
                                            ([(600, 400), (600, 400)], 'is 600x400 RGB, training needs square images')])
@pytest.mark.parametrize('args', [[], ['--cond=1']])
def test_photos_as_they_are_for_the_metrics(sizes, problem, args, tiny_data, tmp_path):
    """The remedy names the resolution of the training, not one that suits the photos."""
    for name, size in zip(['0/a.png', '1/b.png'], sizes, strict=True):
        (tmp_path / name).parent.mkdir()
        PIL.Image.new('RGB', size).save(tmp_path / name)
    remedy = 'rebuild with dataset_tool.py --width=16 --height=16 --transform=center-crop'
    with pytest.raises(UserError, match=f'{problem}; {remedy}'):
        config_of(tiny_data, f'--metric-data={tmp_path}', *args)


def test_more_drawings_for_the_metrics_of_the_demo(tiny_data):
    """None of them is a training image, nor differs their kind."""
    config, _ = config_of('demo', '--metric-data=demo', '--cfg=demo')
    fresh = ImageFolderDataset(config.metric_set_kwargs['path'])
    trained = ImageFolderDataset(config.training_set_kwargs['path'])
    assert len(fresh) == 1000 and fresh.image_shape == trained.image_shape == [3, 32, 32]
    fresh, trained = [np.stack([data[i][0] for i in range(len(data))]).astype(np.float32) for data in (fresh, trained)]
    nearest = [np.abs(trained - image).mean(axis=(1, 2, 3)).min() for image in fresh]
    assert min(nearest) > 1 and np.abs(fresh.mean(axis=0) - trained.mean(axis=0)).mean() < 10          # of 255
    with pytest.raises(UserError, match='--metric-data=demo: these are further drawings .* name real images'):
        config_of(tiny_data, '--metric-data=demo')
