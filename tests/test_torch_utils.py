import json

import pytest
import torch
from processes import run_processes

from dnnlib import UserError
from torch_utils import checkpoint, distributed, training_stats
from torch_utils.devices import cpu_has_bfloat16


@pytest.fixture(autouse=True)
def fresh_statistics(monkeypatch):
    monkeypatch.setattr(training_stats, '_moments', {})


def test_statistics_of_known_numbers():
    collector = training_stats.Collector()
    assert training_stats.report('a', [1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    training_stats.report('a', torch.tensor([[6.0]], requires_grad=True))
    assert collector.num('a') == 0
    collector.update()
    assert (collector.num('a'), collector.mean('a')) == (4, 3.0)
    assert collector.std('a') == pytest.approx(3.5 ** 0.5)          # squares 4, 1, 0, 9
    collector.update()
    assert collector.mean('a') == 3.0                               # nothing new: the numbers before stay


def test_collectors_forget_and_filter():
    collector = training_stats.Collector('a/.*', keep_previous=False)
    training_stats.report('a/x', 1)
    training_stats.report('b', 1)
    collector.update()
    assert collector.names() == ['a/x'] and collector.mean('a/x') == 1
    collector.update()
    assert collector.num('a/x') == 0 and collector.mean('a/x') != collector.mean('a/x')     # NaN


def test_a_collector_ignores_what_was_reported_before_it():
    training_stats.report('a', 100)
    collector = training_stats.Collector()
    training_stats.report('a', 2)
    collector.update()
    assert collector.mean('a') == 2


def test_running_moments_are_a_copy():
    assert training_stats.running_moments('a', 'cpu').tolist() == [0, 0, 0]
    training_stats.report('a', [2.0, 3.0])
    moments = training_stats.running_moments('a', 'cpu')
    training_stats.report('a', [1.0])
    assert moments.tolist() == [2, 5, 13]


def test_checkpoint_round_trip(tmp_path):
    path = str(tmp_path / 'state.safetensors')
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    state = {'opt': {'state': {0: {'step': torch.tensor(3.), 'm': x}},
                     'groups': [{'lr': 0.1, 'betas': (0, 0.99), 'params': [0, 1]}]}, 'none': None}
    tensors, nest = checkpoint.flatten('all', state)
    checkpoint.save(path, 'training-state', tensors, dict(nest=nest, n=7))
    loaded, info = checkpoint.load(path, 'training-state')
    back = checkpoint.unflatten(info['nest'], loaded)
    assert info['n'] == 7 and back['none'] is None
    assert back['opt']['groups'] == [{'lr': 0.1, 'betas': [0, 0.99], 'params': [0, 1]}]
    assert torch.equal(back['opt']['state'][0]['m'], x) and back['opt']['state'][0]['step'] == 3


def test_tensors_that_share_memory(tmp_path):
    path = str(tmp_path / 'a.safetensors')
    x = torch.arange(4.)
    checkpoint.save(path, 'network', dict(a=x, b=x), {})
    tensors, _ = checkpoint.load(path, 'network')
    assert torch.equal(tensors['a'], x) and torch.equal(tensors['b'], x)


def test_files_that_cannot_be_loaded(tmp_path):
    path = tmp_path / 'a.safetensors'
    with pytest.raises(UserError, match='a.safetensors: there is no such file'):
        checkpoint.load(str(path), 'network')
    path.write_bytes(b'\x80\x04pickle')
    with pytest.raises(UserError, match='a.safetensors: the file is damaged or of another format'):
        checkpoint.load(str(path), 'network')
    checkpoint.save(str(path), 'training-state', {}, {})
    with pytest.raises(UserError, match="this is no network of this project .*'kdgan-training-state'"):
        checkpoint.load(str(path), 'network')
    body = path.read_bytes()
    path.write_bytes(body.replace(b'"version":"1"', b'"version":"9"'))
    with pytest.raises(UserError, match="written by another version .*'9', this one reads '1'"):
        checkpoint.load(str(path), 'training-state')


def test_a_truncated_file_is_reported(tmp_path):
    path = tmp_path / 'a.safetensors'
    checkpoint.save(str(path), 'network', dict(a=torch.randn(100)), {})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match='damaged'):
        checkpoint.load(str(path), 'network')


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    import safetensors.torch
    path = tmp_path / 'a.safetensors'
    checkpoint.save(str(path), 'network', dict(a=torch.ones(1)), {})

    def fail(tensors, name, metadata):
        with open(name, 'wb') as f:
            f.write(b'half')
        raise safetensors.SafetensorError('No space left on device (os error 28)')
    monkeypatch.setattr(safetensors.torch, 'save_file', fail)
    with pytest.raises(UserError, match='a.safetensors: cannot be written: the disk is full; free some space'):
        checkpoint.save(str(path), 'network', dict(a=torch.zeros(1)), {})
    assert [p.name for p in tmp_path.iterdir()] == ['a.safetensors']
    assert checkpoint.load(str(path), 'network')[0]['a'] == 1


def test_copy_matching_takes_what_fits():
    source, target = torch.nn.Linear(3, 2), torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(4, 1))
    state = {'0.weight': source.weight, '0.bias': torch.zeros(5), 'other': torch.zeros(1)}
    copied, left = checkpoint.copy_matching(state, target)
    assert copied == ['0.weight'] and left == ['0.bias', '1.bias', '1.weight']
    assert torch.equal(target[0].weight, source.weight)


@pytest.mark.parametrize('text, has', [('flags\t\t: fpu avx512f avx512_bf16 vaes\n', True),
                                       ('flags : amx_bf16\n', True),
                                       ('flags : avx512f\n', False), ('Features : fp asimd bf16\n', False),
                                       (None, False)])
def test_bfloat16_is_what_the_processor_says(tmp_path, text, has):
    if text is not None:
        (tmp_path / 'cpuinfo').write_text(f'processor : 0\n{text}bugs :\n')
    assert cpu_has_bfloat16(str(tmp_path / 'cpuinfo')) is has


def test_a_single_process_needs_no_group():
    assert (distributed.get_rank(), distributed.get_world_size()) == (0, 1)
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([1., 2.])
    distributed.average([p.grad])
    assert p.grad.tolist() == [1, 2]
    assert distributed.mean(p) is p
    assert distributed.any_process(True) and distributed.agree(lambda: 5) == 5


def _two_processes(rank, out):
    tensors = [torch.tensor([1., 2.]) * (rank + 1), torch.arange(4.).reshape(2, 2).t() + rank,
               torch.full([], 2. * rank)]
    for bucket_bytes in (1, 20, 1000):                      # three buckets, two, one
        averaged = [tensor.clone() for tensor in tensors]
        distributed.average(averaged, bucket_bytes)
        assert [t.tolist() for t in averaged] == [[1.5, 3], [[0.5, 2.5], [1.5, 3.5]], 1]
    x = torch.tensor(1. + rank, requires_grad=True)
    # Losses m and 2 m: 1.5 on average, times the slope of this process's square
    ((rank + 1) * distributed.mean(x ** 2)).backward()
    assert x.grad == 1.5 * 2 * x
    training_stats.report('a', [float(rank)])
    collector = training_stats.Collector()
    training_stats.report('a', [1.0 + rank, 2.0])
    collector.update()
    module = torch.nn.Linear(2, 1)
    module.weight.data.fill_(rank)
    distributed.broadcast_from_main(module)
    with distributed.main_process_first(), open(out + '.order', 'a') as f:
        f.write(str(rank))
    result = dict(num=collector.num('a'), mean=collector.mean('a'), weight=module.weight.tolist(),
                  agreed=distributed.agree(lambda: rank), any=distributed.any_process(rank == 1))
    with open(f'{out}.{rank}', 'w') as f:
        json.dump(result, f)


def test_two_processes_agree(tmp_path):
    out = str(tmp_path / 'r')
    run_processes(_two_processes, 2, out)
    results = [json.loads((tmp_path / f'r.{rank}').read_text()) for rank in range(2)]
    assert results[0] == results[1] == dict(num=4, mean=1.75, weight=[[0, 0]], agreed=0, any=True)
    assert (tmp_path / 'r.order').read_text() == '01'
