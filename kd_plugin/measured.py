"""What was measured for one source, such as a teacher and its images: a state that belongs to another one, as a fork
may bring it, does not replace it."""

import torch

from torch_utils.seeds import number_of


def belongs_to(module, source, device=None):
    """Marks what `module` has in its buffers, those of its parts aside, as measured for `source`, a text: loading a
    state of another source leaves them unchanged. Adds the buffer `source`."""
    module.register_buffer('source', torch.tensor(number_of(source, num_bytes=7), device=device))
    module.register_load_state_dict_pre_hook(_keep_own)


def _keep_own(module, state_dict, prefix, *_others):
    own = {prefix + name: value for name, value in module.named_buffers(recurse=False)}
    if any(name in state_dict for name in own):
        state_dict.setdefault(f'{prefix}source', module.source)     # states of before name none
        if state_dict[f'{prefix}source'].item() != module.source.item():
            state_dict.update(own)
