"""The step of another implementation with StyleGAN2-ADA's import surface, in a process of its own.

train_step.py --beside=FOLDER starts `python benchmarks/beside.py FOLDER`. That imports `training.networks`,
`training.loss`, `training.augment` and what these import from FOLDER alone. A phase is forward, backward and the step
of Adam; before that, gradients that are not finite become numbers, as in the loop of StyleGAN2-ADA.
"""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time

import click
import torch

MODULES = ('dnnlib', 'torch_utils', 'training.networks', 'training.loss', 'training.augment')
PHASES = {'Gmain': 'G', 'Greg': 'G', 'Dmain': 'D', 'Dreg': 'D'}
NETWORK_ARGS = ('channel_base', 'channel_max', 'num_fp16_res', 'conv_clamp', 'mapping_kwargs', 'epilogue_kwargs')
LOSS_ARGS = ('r1_gamma', 'style_mixing_prob', 'pl_batch_shrink', 'pl_decay', 'pl_weight')


def request(config, resolution, p):
    """What the other process is to build: the same shapes, batch and augmentation as `config`.

    StyleGAN2-ADA has no half precision on a CPU.

    Raises click.ClickException for a configuration whose phases it does not have.
    """
    if None in (config.G_reg_interval, config.D_reg_interval):
        raise click.ClickException('--beside: this configuration regularises in every step; leave out --cfg=low-shot')
    pick = lambda kwargs: {name: kwargs[name] for name in NETWORK_ARGS if name in kwargs}
    without_class = lambda kwargs: {name: value for name, value in kwargs.items() if name != 'class_name'}
    half = {} if config.device == 'cuda' else dict(num_fp16_res=0)
    G, D = config.G_kwargs, config.D_kwargs
    augment = config.augment_kwargs and without_class(config.augment_kwargs)
    adam = dict(G=without_class(config.G_opt_kwargs), D=without_class(config.D_opt_kwargs))
    return dict(device=config.device, resolution=resolution, batch=config.batch_size, z_dim=G['z_dim'],
                w_dim=G['w_dim'], G=pick(G), synthesis={**pick(G['synthesis_kwargs']), **half}, D={**pick(D), **half},
                augment=augment, p=p, adam=adam, intervals=dict(G=config.G_reg_interval, D=config.D_reg_interval),
                loss={name: config.loss_kwargs[name] for name in LOSS_ARGS if name in config.loss_kwargs},
                tf32=[config.conv_tf32, config.allow_tf32], benchmark=config.cudnn_benchmark)


class Beside:
    """The other process; `turn(n)` has it run every phase n times. Raises click.ClickException where it fails.

    Args:
        folder: of the other implementation.
        wanted: of `request`.
    """

    def __init__(self, folder, wanted):
        self.folder = folder
        self._said = tempfile.TemporaryFile('w+')       # noqa: SIM115  a pipe that nobody reads would fill up
        env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
        command = [sys.executable, os.path.abspath(__file__), os.path.abspath(folder)]
        self.process = subprocess.Popen(command, text=True, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self._said)
        try:
            self._ask(json.dumps(wanted))
        except click.ClickException:
            self.close()
            raise

    def turn(self, count):
        """-> {phase: seconds}."""
        return self._ask(str(count))

    def _ask(self, line):
        try:
            self.process.stdin.write(line + '\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            pass                                        # why it has ended is on its error output
        if answer := self.process.stdout.readline():
            return json.loads(answer)
        self.process.wait()
        self._said.seek(0)
        said = self._said.read().strip().splitlines() or ['it ended without a word']
        raise click.ClickException(f'--beside={self.folder}: {said[-1]}')

    def close(self):
        self.process.terminate()
        self.process.communicate()
        self._said.close()


# ---------------------------------------------------------------------------
# The other process.

class Other:
    """Networks, loss and optimisers of FOLDER."""

    def __init__(self, wanted):
        from training.augment import AugmentPipe
        from training.loss import StyleGAN2Loss
        from training.networks import Discriminator, Generator
        self.device, self.wanted = torch.device(wanted['device']), wanted
        torch.backends.cudnn.benchmark = wanted['benchmark']
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = wanted['tf32']
        images = dict(c_dim=0, img_resolution=wanted['resolution'], img_channels=3)
        G = Generator(z_dim=wanted['z_dim'], w_dim=wanted['w_dim'], synthesis_kwargs=wanted['synthesis'],
                      **images, **wanted['G'])
        D = Discriminator(**images, **wanted['D'])
        self.networks = dict(G=G, D=D)
        for network in self.networks.values():
            network.train().requires_grad_(False).to(self.device)
        self.optimisers = {name: self._adam(name) for name in self.networks}
        pipe = None
        if wanted['augment'] is not None:
            pipe = AugmentPipe(**wanted['augment']).train().requires_grad_(False).to(self.device)
            pipe.p.fill_(wanted['p'])
        self.loss = StyleGAN2Loss(device=self.device, G_mapping=G.mapping, G_synthesis=G.synthesis, D=D,
                                  augment_pipe=pipe, **wanted['loss'])

    def _adam(self, name):
        """With the rates of lazy regularisation."""
        kwargs, interval = self.wanted['adam'][name], self.wanted['intervals'][name]
        ratio = interval / (interval + 1)
        return torch.optim.Adam(self.networks[name].parameters(), lr=kwargs['lr'] * ratio,
                                betas=[beta ** ratio for beta in kwargs['betas']], eps=kwargs['eps'])

    def step(self, phase):
        n, network = self.wanted['batch'], self.networks[PHASES[phase]]
        img = torch.rand(n, 3, *[self.wanted['resolution']] * 2, device=self.device) * 2 - 1
        z, c = torch.randn(n, self.wanted['z_dim'], device=self.device), torch.zeros(n, 0, device=self.device)
        self.optimisers[PHASES[phase]].zero_grad(set_to_none=True)
        network.requires_grad_(True)
        accumulate = self.loss.accumulate_gradients
        sync = dict(sync=True) if 'sync' in inspect.signature(accumulate).parameters else {}
        accumulate(phase=phase, real_img=img, real_c=c, gen_z=z, gen_c=c, gain=1, **sync)
        network.requires_grad_(False)
        for param in network.parameters():
            if param.grad is not None:
                torch.nan_to_num(param.grad, nan=0, posinf=1e5, neginf=-1e5, out=param.grad)
        self.optimisers[PHASES[phase]].step()

    def seconds(self, phase):
        self._wait()
        start = time.perf_counter()
        self.step(phase)
        self._wait()
        return time.perf_counter() - start

    def _wait(self):
        if self.device.type == 'cuda':
            torch.cuda.synchronize()


def check_origin(folder):
    """Another implementation that is installed would be imported where FOLDER lacks a module."""
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        if spec is None or not os.path.realpath(spec.origin).startswith(os.path.join(os.path.realpath(folder), '')):
            raise ModuleNotFoundError(f'there is no {name}')


def serve(folder, answers):
    """Does what comes on the standard input."""
    check_origin(folder)
    other = Other(json.loads(sys.stdin.readline()))
    print(json.dumps({'ready': True}), file=answers, flush=True)
    for line in sys.stdin:
        taken = {phase: min(other.seconds(phase) for _ in range(int(line))) for phase in PHASES}
        print(json.dumps(taken), file=answers, flush=True)


@click.command()
@click.argument('folder')
def main(folder):
    """Time the step of the implementation in FOLDER, for train_step.py --beside=FOLDER.

    The standard input has a line of JSON with what to build (`request`), then a line N for each turn. Each is answered
    by a line of JSON: that it is ready, then {phase: seconds of the fastest of N}.
    """
    sys.path[0] = folder
    answers, sys.stdout = sys.stdout, sys.stderr        # what FOLDER prints is no answer
    serve(folder, answers)


if __name__ == '__main__':
    main()
