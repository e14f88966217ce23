"""The past of full attention: all that was appended, in any pieces; what is rewound is overwritten."""

import torch

from athanor.kernels.packed_row import PackedRow
from athanor.models.blocks.key_values import KeyValues


def some(rows, length, seed=0):
    return torch.randn(2, rows, length, 3, 4, generator=torch.Generator().manual_seed(seed)).unbind(0)


def test_pieces_come_back_as_one_row():
    keys, values = some(2, 11)
    past = KeyValues()
    for piece in (slice(0, 5), slice(5, 6), slice(6, 11)):
        found = past.append(keys[:, piece], values[:, piece])
    assert torch.equal(found[0], keys) and torch.equal(found[1], values)
    assert torch.equal(past.held(4, 7)[1], values[:, 4:7])


def test_what_was_rewound_is_overwritten_and_the_rest_stays():
    (keys, values), (other, _) = some(1, 8), some(1, 3, seed=1)
    past = KeyValues()
    past.append(keys, values)
    past.rewind(5)
    found, _ = past.append(other, other)
    assert torch.equal(found, torch.cat((keys[:, :5], other), dim=1))


def test_documents_of_a_packed_row_become_rows_padded_on_the_left():
    keys, values = some(1, 7)
    past = KeyValues()
    past.append(keys, values)
    past.unpack(PackedRow((3, 4)))
    assert past.length == 4
    found = past.held(0, 4)[0]
    assert torch.equal(found[0], torch.nn.functional.pad(keys[0, :3], (0, 0, 0, 0, 1, 0)))
    assert torch.equal(found[1], keys[0, 3:])
