"""The training phases as data: which network takes a step, how often, with which optimiser."""

import time
from dataclasses import dataclass

import torch

import dnnlib
from torch_utils import distributed, training_stats


class PhaseTimer:
    """Seconds spent between `start()` and `stop()`, summed since the last `take()`, without waiting for the device in
    between."""

    def __init__(self, device):
        self.device = device
        self._intervals = []
        self._begin = None

    def _now(self):
        if self.device.type == 'cuda':
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        return time.perf_counter()

    def start(self):
        self._begin = self._now()

    def stop(self):
        self._intervals.append((self._begin, self._now()))

    def take(self):
        """-> (seconds, number of intervals). Waits for the device."""
        intervals, self._intervals = self._intervals, []
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
            return sum(a.elapsed_time(b) for a, b in intervals) / 1000, len(intervals)
        return sum(b - a for a, b in intervals), len(intervals)


@dataclass
class Phase:
    """One of Gmain, Greg, Gboth, Dmain, Dreg, Dboth."""
    name: str
    module: torch.nn.Module                 # G or D
    params: list                            # what the optimiser trains
    opt: torch.optim.Optimizer
    interval: int                           # run every so many iterations, from number `offset` on
    offset: int
    gain: int                               # factor on its loss: for how many steps of its network it stands
    timer: PhaseTimer
    averages: list                          # running averages that each process updates from its part of the batch
    skipped: torch.Tensor | None = None     # of the last step: 1 if it was left out, else 0

    def is_due(self, batch_idx):
        return (batch_idx - self.offset) % self.interval == 0

    def begin(self):
        self.timer.start()
        self.opt.zero_grad(set_to_none=True)
        for param in self.params:
            param.requires_grad_(True)

    def end(self):
        """Averages the gradients over processes and takes the step, unless one of them is infinite or NaN."""
        for param in self.params:
            param.requires_grad_(False)
        grads = [param.grad for param in self.params if param.grad is not None]
        distributed.average([*grads, *self.averages])
        if grads:
            norms = torch.stack(torch._foreach_norm(grads))
            bad = (~norms.isfinite().all()).to(torch.float32)
            training_stats.report(f'Progress/skipped_steps/{self.name}', bad)
            self.skipped = bad
            # A fused optimiser changes nothing if this is 1, without waiting
            self.opt.found_inf = bad
            self.opt.step()
        self.timer.stop()

    def restore_layout(self):
        """Gives the optimiser's state, after loading, the memory format of its parameters, as a fused step wants it."""
        for param, state in self.opt.state.items():
            for name, value in state.items():
                if torch.is_tensor(value) and value.shape == param.shape:
                    state[name] = torch.empty_like(param).copy_(value)


def make_phases(G, D, extra_D_params, G_opt_kwargs, D_opt_kwargs, G_reg_interval, D_reg_interval, device, D_steps=1,
                D_first=False):
    """The phases of one iteration, in order.

    An iteration is one step of D on new reals and fakes. G takes its step before it, in each `D_steps`-th iteration,
    the first included; with `D_first` after it, in each `D_steps`-th, the last included. What counts images (the length
    of a run, ADA, schedules) counts the reals that D sees; the average of G's weights moves where G has taken a step,
    by the images since the last one.

    With lazy regularisation (interval k; StyleGAN2, appendix B) main and regularisation alternate on one optimiser,
    whose learning rate and betas are adjusted for the extra steps: lr * c, beta ** c with c = k / (k + 1).

    Args:
        extra_D_params: {name: parameter} of further terms, trained with D.
        G_reg_interval, D_reg_interval: steps of the network; None = regularise in every main phase.
        D_steps: steps of D for each step of G.
        D_first: D takes its steps before G.
    """
    phases = []
    averages = G.running_averages()         # G makes images in all phases
    networks = [('G', G, {}, G_opt_kwargs, G_reg_interval, D_steps),
                ('D', D, extra_D_params, D_opt_kwargs, D_reg_interval, 1)]
    for name, module, extra, opt_kwargs, interval, spacing in networks[::-1] if D_first else networks:
        named = {**dict(module.named_parameters()), **extra}        # names, by which a fork finds its averages
        params = list(named.values())
        c = 1 if interval is None else interval / (interval + 1)
        opt_kwargs = dict(opt_kwargs, lr=opt_kwargs['lr'] * c, betas=[float(beta) ** c for beta in opt_kwargs['betas']],
                          fused=True)
        opt = dnnlib.util.construct_class_by_name(list(named.items()), **opt_kwargs)
        for part, steps in [('both', 1)] if interval is None else [('main', 1), ('reg', interval)]:
            phases.append(Phase(name + part, module, params, opt, steps * spacing, D_steps - 1 if D_first else 0, steps,
                                PhaseTimer(device), averages))
    return phases
