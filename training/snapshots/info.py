"""The form of what a snapshot says of itself (docs/formats.md): checked before anything believes it."""

from dnnlib import UnusableFile

NUMBER = (int, float)
OPTIONS = dict(training_set_kwargs=dict(path=str, val_fraction=NUMBER, random_seed=int), metrics=[str],
               metric_set_kwargs=dict(path=str), init_from=str, random_seed=int, num_gpus=int, device=str,
               batch_size=int, fork_origin=dict(run=str, cur_nimg=NUMBER, checksum=str), ema_kimg=NUMBER,
               ada_target=NUMBER, augment_kwargs={}, G_opt_kwargs=dict(lr=NUMBER), D_opt_kwargs=dict(lr=NUMBER), G_kwargs={},
               loss_kwargs=dict(r1_gamma=NUMBER, kd_kwargs=dict(methods=[str], teacher=str, settings={})))
DATASET = dict(name=str, content_hash=str, images=int, resolution=int, channels=int, mirrored=bool, labels=bool, class_names=[str], record={},
               held_out=int)
HISTORY = [dict(event=str, cur_nimg=NUMBER, to=NUMBER, phase=str, lr_factor=NUMBER, run=str, checksum=str)]
FORM = dict(networks=dict(G_ema={}, G={}, D={}), project_version=str,
            training=dict(cur_nimg=NUMBER, class_names=[str], dataset=DATASET, metrics=[{}], history=HISTORY, options=OPTIONS))


def check(info):
    """-> `info` with 'training' in it. Raises UnusableFile unless each entry of `FORM` that is there, and not null, has its type.

    Entries that are not in the form may be anything; but there are no networks besides those. Tables that are null are left out.
    """
    info = _checked(info, FORM, 'it')
    networks = info.get('networks')
    if not networks or not networks.keys() <= FORM['networks'].keys():
        raise UnusableFile('it does not describe its networks, which are G_ema, G and D')
    return dict(info, training=info.get('training', {}))


def _checked(value, form, where):
    """form: a type or several; [form] = a list of such values; {key: form} = a table."""
    if not isinstance(value, type(form) if isinstance(form, (dict, list)) else form):
        raise UnusableFile(f'{where} is {str(value)[:50]!r}, which it cannot be')
    if isinstance(form, list):
        return [_checked(item, form[0], where) for item in value]
    if not isinstance(form, dict):
        return value
    value = {key: item for key, item in value.items() if item is not None or not isinstance(form.get(key), dict)}
    return value | {key: _checked(value[key], form[key], key) for key in form if value.get(key) is not None}
