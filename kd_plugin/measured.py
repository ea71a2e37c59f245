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
    saved = state_dict.get(f'{prefix}source')
    if saved is not None and saved.item() != module.source.item():
        state_dict.update({prefix + name: value for name, value in module.named_buffers(recurse=False)})
