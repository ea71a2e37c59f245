"""Networks in repositories of the Hugging Face Hub: 'hf:user/repo' -> a file; and back."""

import contextlib
import re
from typing import NamedTuple

from dnnlib import UserError
from dnnlib.text import gist

MODEL_FILE = 'model.safetensors'        # what push_to_hub.py calls the snapshot
REPO = re.compile(r'\w(?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?', re.ASCII)
MAX_REPO = 96
FORM = 'hf:user/repo, hf:user/repo/FILE or hf:user/repo@REVISION'


class HubName(NamedTuple):
    """Parts of 'hf:user/repo[/file][@revision]'."""
    repo: str
    file: str
    revision: str | None        # branch, tag or commit; None = the main branch


def is_hub_name(text):
    return text.startswith('hf:')


def is_repo(text):
    """Whether it is USER/NAME as the Hub takes it."""
    return REPO.fullmatch(text) is not None and '..' not in text and '--' not in text and len(text) <= MAX_REPO


def _is_path(text):
    """Whether it is the name of a file or a revision that does not leave its folder."""
    return text.isprintable() and '\\' not in text and not {'', '.', '..'} & set(text.split('/'))


def parse(text, option='--network'):
    """'hf:...' -> `HubName`. Raises UserError if it has another form."""
    match = re.fullmatch(r'hf:([^/@]*/[^/@]*)(?:/([^@]*))?(?:@([^\s@]*))?', text)
    if match is None or not is_repo(match[1]) or not all(part is None or _is_path(part) for part in match.groups()[1:]):
        raise UserError(f'{option}={text}: must be {FORM}')
    return HubName(match[1], match[2] or MODEL_FILE, match[3])


def library(option):
    """The package huggingface_hub, imported on first use. Raises UserError if it is missing."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as err:
        raise UserError(f'{option}: the package huggingface_hub cannot be imported ({err}); install it with: pip '
                        'install huggingface_hub') from err
    return huggingface_hub


def download(text, option='--network'):
    """Path of the file that 'hf:...' names, in the cache of huggingface_hub. Raises UserError if it cannot be had."""
    repo, file, revision = parse(text, option)
    hub = library(f'{option}={text}')
    with user_errors(f'{option}={text}', file):
        return hub.hf_hub_download(repo, file, revision=revision)


def upload(repo, contents, private, message, space=False):
    """Puts files into a repository, in one commit, and makes the repository where there is none. -> address of the
    commit.

    Args:
        contents: {name: bytes, or path of a file}.
        space:    a Space of this name, made for Gradio, instead of a repository of networks.
    Raises: UserError if it cannot be done.
    """
    where = f'--repo={repo}'
    hub = library(where)
    if hub.get_token() is None:
        raise UserError(f'{where}: nobody is logged in; run "hf auth login", or put a token that may write '
                        'into HF_TOKEN')
    api = hub.HfApi()
    with user_errors(where):
        # The Hub may know it by another name
        kind = dict(repo_type='space', space_sdk='gradio') if space else {}
        repo = api.create_repo(repo, private=private or None, exist_ok=True, **kind).repo_id
        operations = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
                      for name, content in contents.items()]
        return str(api.create_commit(repo, operations, commit_message=message,
                                     repo_type='space' if space else None).commit_url)


@contextlib.contextmanager
def user_errors(what, file=None):
    """Turns the errors of huggingface_hub into one line. what: the option, for the message; file: what is asked for."""
    from huggingface_hub import errors
    reasons = [             # in this order, since a later one may be the base class of an earlier one
        (errors.GatedRepoError, 'its owner grants access on request; ask for it on the page of the repository, then '
                                'log in: hf auth login'),
        (errors.RepositoryNotFoundError, 'there is no such repository, or it is private; check the spelling, or log '
                                         'in: hf auth login'),
        (errors.RevisionNotFoundError, 'the repository has no such revision; name a branch, a tag or a commit '
                                       'after the @'),
        (errors.LocalEntryNotFoundError, 'the Hub cannot be reached and the file is not in the cache; download it '
                                         'elsewhere and name the file'),
        (errors.OfflineModeIsEnabled, 'HF_HUB_OFFLINE is set; unset it, or name a file'),
        (errors.EntryNotFoundError, f'the repository has no {file}; name one of its files: hf:user/repo/FILE'),
        (errors.HFValidationError, f'is no name of a repository; it must be {FORM}'),
    ]
    try:
        yield
    except UserError:
        raise
    except Exception as err:                        # of its own, of its HTTP library, of the file system
        known = next((reason for kind, reason in reasons if isinstance(err, kind)), None)
        if known is None and getattr(getattr(err, 'response', None), 'status_code', None) in (401, 403):
            known = f'the Hub does not allow it ({gist(err)}); log in with a token that may: hf auth login'
        raise UserError(f'{what}: {known or f"the Hub cannot be used ({gist(err)}); try again later"}') from err
