"""The form of the record in a snapshot (docs/formats.md), which is checked before it is used."""

from typing import Any, NamedTuple

from dnnlib import UnusableFile

NUMBER = (int, float)


class Whole(dict):
    """The form of a table in which no entry may be missing."""


class Each(NamedTuple):
    """The form of a table with any names, whose entries have one form, except for tables of known classes."""
    form: Any
    by_class: dict = {}


# Earlier versions had it in the loss, not among the terms
DISTILLATION = dict(methods=[str], teacher=str, settings={})
# Earlier versions had it among the options themselves
ORIGIN = Whole(run=str, cur_nimg=NUMBER, checksum=str)
OPTIONS = dict(training_set_kwargs=dict(path=str, max_size=int, val_fraction=NUMBER, random_seed=int), metrics=[str],
               metric_set_kwargs=dict(path=str), metric_kwargs=dict(batch_norm=str, uniform_labels=bool), init_from=str,
               random_seed=int, num_gpus=int, device=str, batch_size=int, fork_origin=ORIGIN,
               found_out=dict(fork_origin=ORIGIN), ema_kimg=NUMBER, ada_target=NUMBER, augment_p=NUMBER,
               augment_ramp_kimg=NUMBER, augment_kwargs=Whole(class_name=str),
               terms=Each(Whole(class_name=str), {'kd_plugin.loss.Distillation': DISTILLATION}),
               G_opt_kwargs=dict(lr=NUMBER), D_opt_kwargs=dict(lr=NUMBER), G_kwargs={},
               loss_kwargs=dict(r1_gamma=NUMBER, kd_kwargs=DISTILLATION))
DATASET = dict(name=str, content_hash=str, images=int, resolution=int, channels=int, mirrored=bool, labels=bool,
               class_names=[str], record={}, held_out=int, label_vectors=bool)
EVENT = Whole(event=str)
EVENTS = dict(rollback=Whole(event=str, cur_nimg=NUMBER, to=NUMBER, lr_factor=NUMBER))      # with a form of their own
FORM = dict(networks=dict(G_ema={}, G={}, D={}), project_version=str,
            training=dict(cur_nimg=NUMBER, class_names=[str], dataset=DATASET, metrics=[{}], history=[EVENT],
                          options=OPTIONS))


def check(info):
    """-> `info` with 'training' in it. Raises UnusableFile unless each entry of `FORM` that is there, and not null, has
    its type.

    Entries that are not in the form may be anything, but no other networks are allowed. Tables that are null are left
    out.
    """
    info = _checked(info, FORM, 'it')
    networks = info.get('networks')
    if not networks or not networks.keys() <= FORM['networks'].keys():
        raise UnusableFile('it does not describe its networks, which are G_ema, G and D')
    training = info.get('training', {})
    names, c_dim = training.get('class_names'), networks.get('G_ema', {}).get('c_dim')
    if names and isinstance(c_dim, int) and len(names) < c_dim and not training.get('dataset', {}).get('label_vectors'):
        raise UnusableFile(f'it has {len(names)} names for {c_dim} classes')
    for event in training.get('history') or []:
        _checked(event, EVENTS.get(event['event'], EVENT), 'history')
    return dict(info, training=training)


def _checked(value, form, where):
    """form: a type or several; [form] = a list of such values; {key: form}, `Whole` or `Each` = a table."""
    kind = dict if isinstance(form, (dict, Each)) else list if isinstance(form, list) else form
    if not isinstance(value, kind):
        raise UnusableFile(f'{where} is {str(value)[:50]!r}, which it cannot be')
    if kind is list:
        return [_checked(item, form[0], where) for item in value]
    if kind is not dict:
        return value
    class_of = lambda item: str(item.get('class_name')) if isinstance(item, dict) else None
    forms = ({key: form.by_class.get(class_of(item), form.form) for key, item in value.items()}
             if isinstance(form, Each) else form)
    value = {key: item for key, item in value.items() if item is not None
             or not isinstance(forms.get(key), (dict, Each))}
    if isinstance(form, Whole) and (missing := [key for key in form if value.get(key) is None]):
        raise UnusableFile(f'{where} has no {missing[0]}')
    return value | {key: _checked(value[key], forms[key], key) for key in forms if value.get(key) is not None}
