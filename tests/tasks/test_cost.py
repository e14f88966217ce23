"""What stages say they cost, in units that no machine changes."""

import pytest

from athanor.data.data_recipe import TokenizerRecipe
from athanor.tasks.cost import MOST_BYTES_PER_TOKEN, bytes_per_token


@pytest.mark.parametrize(
    ("vocab_size", "counted"), [(512, 2.04), (1024, 2.58), (2048, 3.05), (4096, 3.48), (32768, 4.08)]
)
def test_a_token_of_a_small_vocabulary_holds_fewer_bytes(vocab_size, counted):
    """Counted on held-out lines of Python's documentation and code and of Wikipedia, their mean."""
    assert bytes_per_token(TokenizerRecipe(vocab_size=vocab_size)) == pytest.approx(counted, rel=0.05)


def test_a_tokenizer_that_is_loaded_is_taken_for_a_large_one():
    assert bytes_per_token(TokenizerRecipe(hub="o/tokenizer")) == MOST_BYTES_PER_TOKEN
