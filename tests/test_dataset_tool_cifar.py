"""dataset_tool.py: the archives of CIFAR."""

import os
import pickle
import re

import numpy as np
import pytest
from made_images import make_cifar, noise, read, refusal, run_tool

# CIFAR archives.


@pytest.mark.parametrize('split, want', [(None, [3, 1, 4, 1, 5]), ('test', [0])])
def test_cifar10(tmp_path, split, want):
    batches = {f'data_batch_{i + 1}': {'data': noise(1, 3072, seed=i), 'labels': [label]}
               for i, label in enumerate([3, 1, 4, 1, 5])}
    batches['test_batch'] = {'data': noise(1, 3072, seed=9), 'labels': [0]}
    source = make_cifar(tmp_path / 'cifar-10-python.tar.gz', 'cifar-10-batches-py', batches,
                        {'batches.meta': {'label_names': list('abcdefghij')}})
    run_tool(source, tmp_path / 'out.zip', *([f'--split={split}'] if split else []))
    images, meta = read(tmp_path / 'out.zip')
    assert [label for _, label in meta['labels']] == want and meta['class_names'] == list('abcdefghij')
    # The format: red plane, green plane, blue plane
    planes = noise(1, 3072, seed=9 if split else 0).reshape(3, 32, 32)
    np.testing.assert_array_equal(np.array(images['00000/img00000000.png']), np.dstack(list(planes)))


def test_cifar100_takes_the_fine_labels(tmp_path):
    batch = {'data': noise(2, 3072), 'fine_labels': [1, 0], 'coarse_labels': [7, 7]}
    source = make_cifar(tmp_path / 'x.tar.gz', 'cifar-100-python', {'train': batch, 'test': batch},
                        {'meta': {'fine_label_names': ['apple', 'bee']}})
    run_tool(source, tmp_path / 'out')
    meta = read(tmp_path / 'out')[1]
    assert [label for _, label in meta['labels']] == [1, 0] and meta['class_names'] == ['apple', 'bee']


class _Hostile:
    def __reduce__(self):
        return os.mkdir, ('owned',)


def test_a_cifar_archive_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = make_cifar(tmp_path / 'x.tar.gz', 'cifar-100-python', {'train': _Hostile()},
                        {'meta': {'fine_label_names': []}})
    assert re.search(r"not a readable CIFAR python archive .*names the global '\w+\.mkdir'",
                     refusal(source, tmp_path / 'out'))
    assert not os.path.exists('owned')


def python2(value):
    """Instructions that Python 2's pickle.dumps(value, 2) has for dicts, lists, strings, small numbers and uint8
    arrays."""
    if isinstance(value, str):
        return b'U' + bytes([len(value)]) + value.encode('latin-1') + b'q\x00'
    if isinstance(value, int):
        return b'K' + bytes([value])
    if isinstance(value, list):
        return b']q\x00(' + b''.join(map(python2, value)) + b'e'
    if isinstance(value, dict):
        return b'}q\x00(' + b''.join(python2(key) + python2(entry) for key, entry in value.items()) + b'u'
    head = b'cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x00K\x00\x85U\x01b\x87Rq\x00(K\x01'
    shape = b''.join(b'J' + n.to_bytes(4, 'little') for n in value.shape) + b'\x86'
    kind = b'cnumpy\ndtype\nq\x00U\x02u1K\x00K\x01\x87Rq\x00(K\x03U\x01|NNN' + b'J\xff\xff\xff\xff' * 2 + b'K\x00tb'
    return head + shape + kind + b'\x89T' + value.nbytes.to_bytes(4, 'little') + value.tobytes() + b'tb'


def test_what_python_2_has_written(tmp_path):
    """As the real archives are; with as many instructions as the largest, of CIFAR-100."""
    data = noise(3, 3072)
    for batch, name in [({'data': data, 'fine_labels': [1, 0, 1], 'coarse_labels': [7] * 3,
                          'filenames': ['b\xe9\xe9_1.png'] * 3}, 'small'),
                        ({'data': data, 'fine_labels': [1, 0, 1], 'coarse_labels': [7] * 100_000,
                          'filenames': ['bee.png'] * 50_000}, 'large')]:
        files = {'train': b'\x80\x02' + python2(batch) + b'.'}
        assert pickle.loads(files['train'], encoding='latin1')['filenames'] == batch['filenames']
        meta = {'meta': b'\x80\x02' + python2({'fine_label_names': ['apple', 'bee']}) + b'.'}
        run_tool(make_cifar(tmp_path / f'{name}.tar.gz', 'cifar-100-python', files, meta), tmp_path / name)
        images, meta = read(tmp_path / name)
        assert [label for _, label in meta['labels']] == [1, 0, 1] and meta['class_names'] == ['apple', 'bee']
        np.testing.assert_array_equal(np.array(images['00000/img00000002.png']),
                                      data[2].reshape(3, 32, 32).transpose(1, 2, 0))


@pytest.mark.parametrize('batch, message', [
    ({'data': noise(2, 3072).astype(np.float32), 'fine_labels': [1, 0]}, 'its images are float32, not uint8'),
    ({'data': noise(2, 3072), 'fine_labels': [1]}, 'ValueError'), ({'data': noise(2, 3000), 'fine_labels': [1, 0]},
                                                                   'ValueError'),
    ({'data': [1, 2], 'fine_labels': [1, 0]}, 'AttributeError'), ([1, 2], 'TypeError'),
    ({'fine_labels': [1]}, "KeyError: 'data'"),
    ({'data': noise(1, 3072), 'fine_labels': [[1]]}, 'TypeError'), (b'\x80\x02}T\xff\xff\xff\xff.', 'ends too early')])
def test_cifar_archives_of_something_else(tmp_path, batch, message):
    source = make_cifar(tmp_path / 'x.tar.gz', 'cifar-100-python', {'train': batch},
                        {'meta': {'fine_label_names': ['a', 'b']}})
    assert re.search(f'x.tar.gz: not a readable CIFAR python archive .*{message}', refusal(source, tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()


def test_broken_cifar_archives(tmp_path):
    (tmp_path / 'cifar-10-python.tar.gz').write_bytes(b'not gzip')
    assert 'cifar-10-python.tar.gz: not a readable CIFAR python archive' in refusal(tmp_path / 'cifar-10-python.tar.gz',
                                                                                    tmp_path / 'out')
    other = make_cifar(tmp_path / 'other.tar.gz', 'photos', {'a.png': b'-'}, {})
    assert ('holds neither cifar-10-batches-py/batches.meta nor '
            'cifar-100-python/meta' in refusal(other, tmp_path / 'out'))
    assert '--split=val: other.tar.gz has the parts train and test' in refusal(other, tmp_path / 'out', '--split=val')
