"""What happens after too many bad steps in a row: back to the last good state with a lower learning rate, or the end."""

from dnnlib import UserError

from . import bad_steps
from . import files as run_files
from . import state as trainer_state


def react(trainer):
    """After too many bad steps in a row: goes back to the last good state with a lower learning rate. Raises UserError to end the run."""
    bad = trainer.bad_steps
    what = f'the last {bad.max_in_a_row} steps of {bad.exceeded} up to {trainer.cur_nimg / 1000:g} kimg were left out: a gradient was infinite or NaN'
    advice = f'{run_files.BAD_STEPS_FILE} lists them. Try --fp32=1 or a larger --gamma, with --fork-from={trainer.run_dir} if there is a state'
    if bad.reaction == 'stop':
        raise UserError(f'{trainer.run_dir}: {what}; the last state is kept, {advice}, or --on-bad-steps=rollback')
    if bad_steps.num_rollbacks(trainer) >= bad.max_rollbacks:
        raise UserError(f'{trainer.run_dir}: {what}, after {bad.max_rollbacks} rollbacks; the last state is kept, {advice}')
    event = dict(event='rollback', cur_nimg=trainer.cur_nimg, phase=bad.exceeded, lr_factor=bad.lr_factor)
    if not trainer_state.restore(trainer, bad_steps.is_good):
        raise UserError(f'{trainer.run_dir}: {what}, and there is no good state to go back to; {advice}')
    trainer.history.append(dict(event, to=trainer.cur_nimg))
    for opt in {id(phase.opt): phase.opt for phase in trainer.phases}.values():
        for group in opt.param_groups:
            group['lr'] *= bad.lr_factor
    trainer.start_progress()
    trainer.progress.message(f'Warning: {what}. Back to {trainer.cur_nimg / 1000:g} kimg, with {bad.lr_factor:g} times the learning rate.')
    trainer_state.save(trainer)
