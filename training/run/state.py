"""Everything that changes during training: saved as one state, and taken from it to continue exactly."""

from dnnlib import UserError
from torch_utils import distributed

from . import bad_steps, fork

NEW = ('bad_steps',)                    # states from before these were in them can be continued, too


def stateful(trainer):
    """{name: object with `state_dict` and `load_state_dict`}. Random numbers and the order of images follow from the seed and `cur_nimg`."""
    objects = dict(G=trainer.G, D=trainer.D, G_ema=trainer.G_ema, loss=trainer.loss)
    objects.update({f'{phase.name[0]}_opt': phase.opt for phase in trainer.phases})
    objects.update({name: getattr(trainer, name) for name in ('augment_pipe', 'ada') if getattr(trainer, name) is not None})
    objects.update({f'observer_{name}': observer for name, observer in trainer.observers.items()})
    return dict(objects, bad_steps=trainer.bad_steps)


def save(trainer):
    """Writes the state: the first process, but all must call it."""
    bad_steps.look(trainer)
    states = {name: source.state_dict() for name, source in stateful(trainer).items()}
    pending_stats = trainer.progress.collector.state_dict()
    if trainer.rank == 0:
        trainer.store.save_state(states, dict(cur_nimg=trainer.cur_nimg, batch_idx=trainer.batch_idx, cur_tick=trainer.cur_tick,
                                              tick_end=trainer.tick_end, elapsed_sec=trainer.progress.elapsed_sec, history=trainer.history,
                                              pending_stats=pending_stats, ended=trainer.ended))


def resume(trainer):
    """Continues from the run directory's state, if there is one, else from the state that the run is a fork of. -> whether there is any."""
    if restore(trainer):
        distributed.print0(f'Continuing {trainer.run_dir} at {trainer.cur_nimg / 1000:.1f} kimg.')
        return True
    if trainer.config.fork_from:
        set_progress(trainer, fork.take_over(trainer, stateful(trainer)))
        return True
    return False


def restore(trainer, accept=lambda _progress: True):
    """Goes to the newest good state in the run directory that `accept(progress)` takes. -> whether there is one."""
    saved = trainer.store.load_state(distributed.print0, accept)
    if saved is None:
        return False
    states, progress = saved
    for name, target in stateful(trainer).items():
        if name in states:
            target.load_state_dict(states[name])
        elif name not in NEW and not name.startswith('observer_'):           # one may have joined since
            raise UserError(f'{trainer.run_dir}: its state has no {name}; use --new-run=1, or --fork-from={trainer.run_dir}')
    for phase in trainer.phases:
        phase.restore_layout()
    set_progress(trainer, progress)
    trainer.continues = True
    return True


def set_progress(trainer, progress):
    """How far the run is; entries that older states lack have defaults."""
    for name in ('cur_nimg', 'batch_idx', 'cur_tick', 'tick_end', 'elapsed_sec'):
        setattr(trainer, name, progress[name])
    trainer.history = progress.get('history', [])               # forks and rollbacks
    trainer.ended = progress.get('ended')                       # why and on which terms an observer has ended the run
    trainer.pending_stats, trainer.dataset_hash = progress.get('pending_stats', {}), progress.get('dataset_hash')
