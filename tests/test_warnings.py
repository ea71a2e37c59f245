"""Which warnings fail a test (tests/conftest.py)."""

import warnings

import pytest


def test_a_warning_is_an_error():
    with pytest.raises(UserWarning, match='anything'):
        warnings.warn('anything', stacklevel=1)


@pytest.mark.gpu
def test_in_a_test_for_a_gpu_it_is_none():
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn('cuDNN: plan failed', stacklevel=1)
    assert [str(warning.message) for warning in caught] == ['cuDNN: plan failed']
