"""Stop strings: an answer ends before the first that is complete, whatever the tokens are."""

from hypothesis import given
from hypothesis import strategies as st

from athanor.models.decoding.stop_strings import AnswerText, cut_at_stop


def test_cutting_takes_the_stop_string_that_is_complete_first_and_ignores_empty_ones():
    assert cut_at_stop("abcdef", ["e", "cd", ""]) == ("ab", True)
    assert cut_at_stop("abcdef", ["bcdef", "d"]) == ("abc", True)
    assert cut_at_stop("abcdef", ["d", "bcd"]) == ("a", True)
    assert cut_at_stop("abcdef", ["x", ""]) == ("abcdef", False)


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "ba", "é", "漢字", "€", "\N{PILE OF POO}"]), max_size=12),
    st.lists(st.text("abé漢€", max_size=4), max_size=3),
    st.data(),
)
def test_pieces_of_an_answer_are_its_text_up_to_the_stop_however_it_is_cut_into_tokens(parts, stops, data):
    # A token here is any run of bytes: whole characters or pieces of them.
    text = "".join(parts)
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) - 1)))))
    tokens = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if a < b]
    answer = AnswerText(lambda ids: b"".join(tokens[i] for i in ids).decode(errors="replace"), stops)
    pieces = []
    for token in range(len(tokens)):
        pieces.append(answer.add(token))
        if answer.stopped:
            break
    pieces.append(answer.rest())
    assert ("".join(pieces), answer.stopped) == cut_at_stop(text, stops)


def test_text_is_given_out_as_soon_as_no_stop_string_can_begin_in_it():
    answer = AnswerText(lambda ids: "".join(map(chr, ids)), ["END"])
    assert [answer.add(ord(c)) for c in "aENbEND"] == ["a", "", "", "ENb", "", "", ""]
    assert answer.stopped


def test_bytes_that_are_never_a_character_are_given_out_at_the_end():
    answer = AnswerText(lambda ids: bytes(ids).decode(errors="replace"), [])
    assert [answer.add(0x61), answer.add(0xE2), answer.rest()] == ["a", "", "\N{REPLACEMENT CHARACTER}"]
