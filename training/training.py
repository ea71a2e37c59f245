"""The training of a GAN: what its steps change, and the step itself. Writes no file and prints nothing."""

import functools
from typing import NamedTuple

import torch

import dnnlib
from torch_utils import distributed
from torch_utils.devices import keep_freed_memory
from torch_utils.seeds import step_seed

from .augment.ada import AdaptiveProbability, LinearProbability, set_probability
from .dataset.real_images import RealImages
from .ema import WeightAverage
from .networks_setup import build_networks
from .phases import make_phases
from .prior import Prior
from .speed.compiling import compile_main_phases
from .speed.cuda_graphs import record_phases


class Batch(NamedTuple):
    """The inputs of a phase; rows are paired by position."""
    real_img: torch.Tensor          # [N, C, H, W] in [-1, 1]
    real_c: torch.Tensor            # [N, c_dim]
    real_idx: torch.Tensor          # [N] int64: numbers of the images
    gen_z: torch.Tensor             # [N, z_dim]
    gen_c: torch.Tensor             # [N, c_dim]

    def split(self, size):
        """-> list of batches of at most `size` rows."""
        return [Batch(*parts) for parts in zip(*[x.split(size) for x in self], strict=True)]


class Training:
    """Networks, data, loss, optimisers and averages of a configuration, and the step that moves them.

    Args:
        config: what training_options.json holds (see train.py).
        device: torch device.
    Attributes:
        cur_nimg, batch_idx: images seen and iterations done. They and the seed determine random numbers and the order
                             of images.
        notes: lines for the log about the setup.
    """

    def __init__(self, config, device):
        self.config, self.device = dnnlib.EasyDict(config), device
        self.rank, self.num_ranks = distributed.get_rank(), distributed.get_world_size()
        self.cur_nimg = self.batch_idx = 0
        self._set_backends()
        self._load_data()
        networks, self.network_kwargs, self.notes = build_networks(self.config, self.dataset, device)
        self.G, self.D, self.G_ema = networks['G'], networks['D'], networks['G_ema']
        uniform = self.config.uniform_labels and self.G.c_dim > 0
        labels = torch.eye(self.G.c_dim, device=device) if uniform else self.reals.labels
        self.prior = Prior(self.G.z_dim, labels, device)
        self._build_loss()
        self._build_optimisers()

    def _set_backends(self):
        torch.backends.cudnn.benchmark = self.config.cudnn_benchmark
        torch.backends.cuda.matmul.allow_tf32 = self.config.allow_tf32
        torch.backends.cudnn.allow_tf32 = self.config.conv_tf32
        if self.device.type == 'cpu':
            keep_freed_memory()

    def _load_data(self):
        c = self.config
        self.dataset = dnnlib.util.construct_class_by_name(**c.training_set_kwargs)
        self.batch_rank = c.batch_size // self.num_ranks
        self.reals = RealImages(self.dataset, self.batch_rank, self.device, rank=self.rank, num_ranks=self.num_ranks,
                                seed=c.random_seed, **c.data_loader_kwargs)

    def _build_loss(self):
        c = self.config
        build = dnnlib.util.construct_class_by_name
        self.augment_pipe = self.ada = None
        if c.augment_kwargs is not None:
            self.augment_pipe = build(**c.augment_kwargs).train().requires_grad_(False).to(self.device)
        if c.ada_target is not None or c.augment_p is not None:
            moves = c.ada_target is not None or c.augment_ramp_kimg is not None
            set_probability(self.augment_pipe, 0 if moves else c.augment_p)
        terms = {name: self._build_term(**kwargs) for name, kwargs in c.terms.items()}
        self.loss = build(device=self.device, G_mapping=self.G.mapping, G_synthesis=self.G.synthesis, D=self.D,
                          augment_pipe=self.augment_pipe, terms=terms, **c.loss_kwargs)
        distributed.broadcast_from_main(self.loss.terms)
        self.notes += [note for term in self.loss.terms.values() for note in term.notes]

    def _build_term(self, class_name, **kwargs):
        return dnnlib.util.get_obj_by_name(class_name).build(self.device, self.D, **kwargs).to(self.device)

    def _build_optimisers(self):
        c = self.config
        if c.ada_target is not None:
            self.ada = AdaptiveProbability(self.augment_pipe.p, c.ada_target, c.ada_interval, c.ada_kimg, c.batch_size)
        elif c.augment_ramp_kimg is not None:
            self.ada = LinearProbability(self.augment_pipe.p, c.augment_p, c.augment_ramp_kimg)
        trained = {f'terms.{name}': param for name, param in self.loss.terms.named_parameters() if param.requires_grad}
        self.phases = make_phases(self.G, self.D, trained, c.G_opt_kwargs, c.D_opt_kwargs, c.G_reg_interval,
                                  c.D_reg_interval, self.device, c.D_steps, c.D_first)
        self.loss.terms.requires_grad_(False)
        self.ema = WeightAverage(self.G, self.G_ema, c.ema_kimg, c.ema_rampup, c.ema_start_kimg, c.ema_buffers)
        self.accumulate = {phase.name: functools.partial(self._accumulate, phase) for phase in self.phases}

    def speed_up(self, tell):
        """Compiles and records the phases as configured. Call once, before the first step. No communication.

        tell: function of a line of text, for what cannot be done.
        """
        if self.config.compile:
            compile_main_phases(self.loss, self.config.batch_gpu, tell)
        if self.config.cuda_graphs:
            record_phases(self.accumulate, self.phases, self.loss, insist=self.config.cuda_graphs is True,
                          half=not self.config.fp32, tell=tell)

    # -- the step

    def step(self):
        """One iteration: all phases that are due. -> those phases, in order; `Phase.skipped` says which were left
        out."""
        c = self.config
        torch.manual_seed(step_seed(c.random_seed, self.rank, self.cur_nimg))
        reals = self.reals.batch(self.cur_nimg)
        self.loss.start_step(self.cur_nimg)
        due = []
        for phase in self.phases:
            z, cz = self.prior.sample(self.batch_rank)
            if phase.is_due(self.batch_idx):
                phase.begin()
                self.accumulate[phase.name](*reals, z, cz)
                phase.end()
                due.append(phase)
        self.loss.finish_step(self.batch_idx)
        if any(phase.module is self.G for phase in due):
            self.ema.update(self.cur_nimg, c.batch_size * c.D_steps)
        if self.ada is not None:
            self.ada.update(self.batch_idx, self.cur_nimg + c.batch_size)
        self.cur_nimg += c.batch_size
        self.batch_idx += 1
        return due

    def _accumulate(self, phase, *tensors):
        """Accumulates gradients over micro-batches; the result is the batch mean for any batch_gpu. tensors: those of a
        `Batch`."""
        parts = Batch(*tensors).split(self.config.batch_gpu)
        for i, part in enumerate(parts):
            self.loss.accumulate_gradients(phase=phase.name, gain=phase.gain / len(parts), round_idx=i,
                                           **part._asdict())

    # -- state

    def parts(self):
        """{name: object with `state_dict` and `load_state_dict`}: everything that a step changes."""
        parts = dict(G=self.G, D=self.D, G_ema=self.G_ema, loss=self.loss)
        parts.update({f'{phase.name[0]}_opt': phase.opt for phase in self.phases})
        parts.update({name: getattr(self, name) for name in ('augment_pipe', 'ada') if getattr(self, name) is not None})
        return parts

    def state_dict(self):
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, states):
        """Raises KeyError where a part is missing."""
        for name, part in self.parts().items():
            part.load_state_dict(states[name])
        self.restore_layout()

    def restore_layout(self):
        """After the optimisers' states were loaded: gives them the memory format of the parameters."""
        for phase in self.phases:
            phase.restore_layout()

    def scale_learning_rates(self, factor):
        for opt in {id(phase.opt): phase.opt for phase in self.phases}.values():
            for group in opt.param_groups:
                group['lr'] *= factor
