"""training/dataset/real_images.py: the order of the images, the same batches from memory and from workers, and
errors."""

import contextlib
import io
import re
import zipfile

import numpy as np
import PIL.Image
import pytest
import torch

from training.dataset import DatasetError, ImageFolderDataset, real_images
from training.dataset.real_images import ImageOrder, Labels, RealImages

# Python >= 3.12 warns on forking workers; torch warns where there are fewer cores than workers.
pytestmark = pytest.mark.filterwarnings('ignore:This process .* is multi-threaded',
                                        'ignore:This DataLoader will create')


def picture(i):
    return np.random.RandomState(i).randint(0, 256, [4, 4, 3], dtype=np.uint8)


def make_dataset(path, num=10, damaged=(), **kwargs):
    """`num` images of noise in folders for two classes."""
    with zipfile.ZipFile(path, 'w') as archive:
        for i in range(num):
            buffer = io.BytesIO()
            PIL.Image.fromarray(picture(i)).save(buffer, 'png')
            archive.writestr(f'{"ab"[i >= num // 2]}/{i:02d}.png', buffer.getvalue()[:-30 if i in damaged else None])
    return ImageFolderDataset(str(path), **kwargs)


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / 'x.zip', use_labels=True, xflip=True)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# The order.

def test_each_pass_has_every_image_once_in_an_order_of_its_own():
    order = ImageOrder(10, seed=3)
    passes = [order.items(start, 10).tolist() for start in (0, 10, 20)]
    assert all(sorted(items) == list(range(10)) for items in passes)
    assert len({tuple(items) for items in passes}) == 3
    assert ImageOrder(10, seed=4).items(0, 10).tolist() != passes[0]


def test_an_item_depends_on_its_position_only():
    long = ImageOrder(7, seed=1).items(0, 100)
    order = ImageOrder(7, seed=1)
    for start, count in [(40, 25), (0, 1), (99, 1), (6, 2), (13, 30), (5, 2)]:  # across passes, forwards and backwards
        np.testing.assert_array_equal(order.items(start, count), long[start:start + count])
    np.testing.assert_array_equal([order.permutation(k // 7)[k % 7] for k in range(100)], long)


def test_the_order_never_changes():
    """Recorded; a change of it would make resumed runs differ from the ones they continue."""
    assert ImageOrder(10, seed=0).items(0, 12).tolist() == [6, 9, 8, 7, 3, 5, 0, 1, 4, 2, 6, 8]


# The batches.

@pytest.mark.parametrize('memory_limit_gb', [None, 0])
def test_a_batch_holds_what_its_indices_say(dataset, memory_limit_gb):
    reals = RealImages(dataset, 6, 'cpu', seed=5, num_workers=0, memory_limit_gb=memory_limit_gb)
    assert reals.in_memory == (memory_limit_gb is None)
    order = ImageOrder(20, seed=5)
    for step in range(5):
        img, c, idx = reals.batch(step * 6)
        assert (img.dtype, c.dtype, idx.dtype) == (torch.float32, torch.float32, torch.int64)
        assert idx.tolist() == order.items(step * 6, 6).tolist()
        for x, label, i in zip(img.numpy(), c, idx.tolist(), strict=True):
            pixels = picture(i % 10).transpose(2, 0, 1).astype(np.float64) / 127.5 - 1
            # float32 of numbers up to 1
            np.testing.assert_allclose(x, pixels[:, :, ::-1] if i >= 10 else pixels, atol=1e-6)
            assert label.tolist() == [[1, 0], [0, 1]][i % 10 >= 5]
        assert img.min() >= -1 and img.max() <= 1


def test_from_memory_and_from_workers_alike(dataset):
    kept = RealImages(dataset, 3, 'cpu', seed=5)
    streamed = RealImages(dataset, 3, 'cpu', seed=5, num_workers=2, memory_limit_gb=0)
    assert kept.in_memory and not streamed.in_memory
    # on, ahead, back, the same again, across a pass
    for cur_nimg in [0, 3, 6, 9, 30, 33, 3, 6, 6, 19]:
        assert same(kept.batch(cur_nimg), streamed.batch(cur_nimg)), cur_nimg
    streamed.close()
    assert same(kept.batch(22), streamed.batch(22))                             # starts again


@pytest.mark.parametrize('memory_limit_gb', [None, 0])
def test_ranks_share_the_images_of_a_step(dataset, memory_limit_gb):
    whole = RealImages(dataset, 6, 'cpu', seed=1)
    ranks = [RealImages(dataset, 2, 'cpu', rank=rank, num_ranks=3, seed=1, num_workers=0,
                        memory_limit_gb=memory_limit_gb) for rank in range(3)]
    for step in range(6):
        parts = [reals.batch(step * 6) for reals in ranks]
        assert same(whole.batch(step * 6), [torch.cat(part) for part in zip(*parts, strict=True)])


def test_the_workers_start_once_for_successive_steps(dataset):
    reals = RealImages(dataset, 2, 'cpu', rank=1, num_ranks=3, num_workers=0, memory_limit_gb=0)
    loader, started = reals._loader, []
    reals._loader = lambda cur_nimg: started.append(cur_nimg) or loader(cur_nimg)
    for cur_nimg in [0, 6, 12, 18, 60, 66]:
        reals.batch(cur_nimg)
    assert started == [0, 60]


def test_a_batch_larger_than_the_data_set(tmp_path):
    reals = RealImages(make_dataset(tmp_path / 'x.zip', num=3), 8, 'cpu')
    assert sorted(reals.batch(0).idx[:6].tolist()) == [0, 0, 1, 1, 2, 2] and reals.batch(0).c.shape == (8, 0)


def test_a_subset(tmp_path):
    reals = RealImages(make_dataset(tmp_path / 'x.zip', max_size=3, random_seed=1), 3, 'cpu')
    img, _, idx = reals.batch(0)
    assert sorted(idx.tolist()) == [0, 1, 2]
    for x, i in zip(img, idx.tolist(), strict=True):
        raw_idx = reals.dataset.get_details(i).raw_idx
        torch.testing.assert_close(x, torch.from_numpy(picture(raw_idx).transpose(2, 0, 1) / 127.5 - 1).float())


def test_labels_are_those_of_the_data_set(dataset):
    """Kept as class numbers, one-hot when asked for; vectors as they are."""
    labels = RealImages(dataset, 3, 'cpu', num_workers=0, memory_limit_gb=0).labels
    want = np.stack([dataset.get_label(i) for i in range(dataset.num_images)])
    assert (len(labels) == dataset.num_images and labels.raw.numel() == dataset.num_images
            and labels.raw.dtype == torch.int64)
    got = labels[torch.tensor([3, 9, 0])]
    assert got.dtype == torch.float32 and np.array_equal(got, want[[3, 9, 0]])
    dataset.has_onehot_labels, dataset._labels = False, np.arange(20, dtype=np.float32).reshape(10, 2)
    assert np.array_equal(Labels(dataset, 'cpu')[torch.tensor([4, 4])], [[8, 9], [8, 9]])


def test_neither_way_draws_from_the_global_generators(dataset):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1]
    for limit in (None, 0):
        RealImages(dataset, 3, 'cpu', num_workers=1, memory_limit_gb=limit).batch(0)
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])


def test_the_memory_limit_counts_decoded_bytes(dataset):
    """10 images of 48 bytes, however many are mirrored."""
    assert RealImages(dataset, 1, 'cpu', memory_limit_gb=480e-9).in_memory
    assert not RealImages(dataset, 1, 'cpu', memory_limit_gb=479e-9).in_memory


def test_loading_in_parts(dataset, monkeypatch):
    want = RealImages(dataset, 20, 'cpu').batch(0)
    monkeypatch.setattr(real_images, 'CHUNK', 3)
    assert same(want, RealImages(dataset, 20, 'cpu').batch(0))


@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_damaged_image_is_one_line(tmp_path, num_workers):
    dataset = make_dataset(tmp_path / 'x.zip', damaged=[4])
    with pytest.raises(DatasetError, match=r'x.zip: a/04.png is damaged'):      # kept: found out before training
        RealImages(dataset, 2, 'cpu')
    reals = RealImages(dataset, 2, 'cpu', num_workers=num_workers, memory_limit_gb=0)
    with pytest.raises(DatasetError) as info:
        for cur_nimg in range(0, 10, 2):
            reals.batch(cur_nimg)
    assert re.fullmatch(r'.*x.zip: a/04.png is damaged \(.*\); rebuild .*', str(info.value))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('memory_limit_gb', [None, 0])
def test_on_a_gpu(dataset, memory_limit_gb):
    cpu = RealImages(dataset, 6, 'cpu', seed=5)
    gpu = RealImages(dataset, 6, 'cuda', seed=5, memory_limit_gb=memory_limit_gb)
    assert gpu.in_memory == (memory_limit_gb is None)
    for step in range(5):
        batch = gpu.batch(step * 6)
        assert all(x.is_cuda for x in batch)
        for x, y in zip(cpu.batch(step * 6), batch, strict=True):
            torch.testing.assert_close(x, y.cpu())


# What is told while they are read.

def test_a_large_set_says_how_many_images_it_reads(dataset, capsys, monkeypatch):
    bars = []
    monkeypatch.setattr(real_images.tqdm, 'tqdm', lambda **kwargs: bars.append(Bar(kwargs)) or bars[-1])
    for large, rank, told, disable in [(1000, 0, '', True), (10, 1, '', True),
                                       (10, 0, 'Reading 10 images into memory.\n', None)]:
        monkeypatch.setattr(real_images, 'LARGE', large)
        monkeypatch.setattr(real_images, 'CHUNK', 4)
        RealImages(dataset, 2, 'cpu', rank=rank, num_ranks=2)
        assert capsys.readouterr().out == told
        assert (bars[-1].kwargs['total'], bars[-1].kwargs['disable'], bars[-1].steps) == (10, disable, [4, 4, 2])
    RealImages(dataset, 2, 'cpu', num_workers=0, memory_limit_gb=0)         # streamed: nothing to wait for
    assert len(bars) == 3


class Bar(contextlib.nullcontext):
    def __init__(self, kwargs):
        super().__init__(self)
        self.kwargs, self.steps = kwargs, []

    def update(self, count):
        self.steps.append(count)
