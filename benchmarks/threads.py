"""How torch's threads should wait for each other, alone and beside one busy program: python benchmarks/threads.py

Each setting of the environment (--setting=NAME=VALUE,...) gets a process that trains the demo. They take turns of a few
steps, alone and beside a program that keeps one core busy, so that other programs on the machine affect all of them
alike; it is printed as well, in cores. `chosen` is what the command lines do: before each turn it chooses the number of
threads as a program does at its start. Linux only; five minutes.
"""

import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median

import click

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir)
sys.path.insert(0, ROOT)
NOTHING, CHOSEN = 'nothing set', 'chosen'
THREADS = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'OMP_NUM_THREADS')
SETTINGS = [NOTHING, CHOSEN, 'GOMP_SPINCOUNT=100000', 'GOMP_SPINCOUNT=30000', 'GOMP_SPINCOUNT=10000',
            'GOMP_SPINCOUNT=3000', 'GOMP_SPINCOUNT=1000', 'OMP_WAIT_POLICY=passive', 'OMP_NUM_THREADS=1']
DEMO = ['--cfg=demo', '--data=demo', '--aug=ada', '--kd=agkd,cgkd', '--device=cpu', '--outdir=x', '--metrics=none']
STEPS, MOST_SEC = 8, 5                          # of a turn: what a slow setting gets through may be less


def train_in_turns(folder, chooses):
    """In a process of its own: a line of input is a turn, a line of output its images, seconds, ... (see `turn`)."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)                               # what the training says is no answer
    import torch  # before dnnlib, which would set variables that this process must not have

    import train
    from dnnlib import free_cores
    from training.training import Training
    config, _name = train.build_config(train.dnnlib.EasyDict(train.main.make_context('train.py', DEMO).params))
    training, every = Training(config, torch.device('cpu')), torch.get_num_threads()
    for _ in iter(sys.stdin.readline, ''):
        if chooses:
            torch.set_num_threads(min(free_cores.measure(free_cores.look()), every))
        training.batch_idx = 1                  # no turn has the regularisation of D, which comes once in 16 steps
        start, cpu, slept, images = time.perf_counter(), time.process_time(), sleeps(), training.cur_nimg
        while training.cur_nimg < images + STEPS * config.batch_size and time.perf_counter() - start < MOST_SEC:
            training.step()
        figures = (training.cur_nimg - images, time.perf_counter() - start, time.process_time() - cpu, sleeps() - slept,
                   torch.get_num_threads())
        print(json.dumps(figures), file=answers, flush=True)


def sleeps():
    """How often a thread of this process has given up its core to wait, so far."""
    texts = [path.read_text() for path in pathlib.Path('/proc/self/task').glob('*/status')]
    return sum(int(re.search(r'^voluntary_ctxt_switches:\s*(\d+)', text, re.M)[1]) for text in texts)


def start(setting, folder):
    """-> a process that has trained for a turn to warm up."""
    env = {name: value for name, value in os.environ.items() if name not in THREADS}
    if setting == CHOSEN:
        from dnnlib import threads  # here, as it sets variables that the other processes must not have
        threads.wait_briefly(env)
    else:
        env.update(part.split('=') for part in setting.split(',') if setting != NOTHING)
    command = [sys.executable, __file__, f'--setting={setting}', '--worker', folder]
    process = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    turn(process, busy=False)
    return process


def cpu_seconds():
    """What all programs together have used since the machine started."""
    user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, pathlib.Path('/proc/stat').read_text().split()[1:11])
    return (user + nice + system + irq + softirq) / os.sysconf('SC_CLK_TCK')


def turn(process, busy):
    """-> seconds per 1000 images, sleeps per image, threads, and cores that other programs took meanwhile."""
    program = subprocess.Popen([sys.executable, '-c', 'while True: pass']) if busy else None
    used, began, children = cpu_seconds(), time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    process.stdin.write('\n')
    process.stdin.flush()
    images, sec, cpu, slept, number = json.loads(process.stdout.readline())
    if busy:
        program.kill()
        program.wait()
    cpu += resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - children
    return sec / images * 1000, slept / images, number, (cpu_seconds() - used - cpu) / (time.perf_counter() - began)


def report(settings, turns):
    """Medians. Every ratio of two turns is one of the same round."""
    print(f'{"":28}{"s/kimg: alone":>14}{"busy":>8}{"alone / first":>22}{"busy / alone":>14}'
          f'{"sleeps per image":>18}{"threads":>9}{"busy":>6}{"other programs":>16}')
    for setting in settings:
        alone, slept, threads_alone, others = zip(*turns[setting, False], strict=True)
        busy, _slept, threads_busy, _others = zip(*turns[setting, True], strict=True)
        first = [sec for sec, *_ in turns[settings[0], False]]
        ratio = lambda a, b: median(x / y for x, y in zip(a, b, strict=True))
        print(f'{setting:28}{median(alone):14.1f}{median(busy):8.1f}{ratio(alone, first):22.2f}'
              f'{ratio(busy, alone):14.2f}{median(slept):18.1f}{median(threads_alone):9g}{median(threads_busy):6g}'
              f'{median(others):10.1f} cores')


@click.command()
@click.option('--setting', 'settings', help='Environment of a process; several are parted by commas', multiple=True,
              default=SETTINGS)
@click.option('--rounds', help='Turns of each setting, alone and busy', type=click.IntRange(min=1), default=3,
              show_default=True)
@click.option('--worker', hidden=True)
def main(settings, rounds, worker):
    """Print seconds per kimg (medians) and their ratios."""
    if worker is not None:
        train_in_turns(worker, settings == (CHOSEN,))
        return
    with tempfile.TemporaryDirectory() as folder:
        processes = {setting: start(setting, folder) for setting in settings}
        turns = {(setting, busy): [] for setting in settings for busy in (False, True)}
        for _ in range(rounds):
            for busy in (False, True):
                for setting, process in processes.items():
                    turns[setting, busy].append(turn(process, busy))
        for process in processes.values():
            process.communicate()
    report(settings, turns)


if __name__ == '__main__':
    main()
