"""What is long takes no more than its share of time: every reader, on 64 KiB of each word of its own language and
of what opens, separates or closes in it."""

import fuzzing
import pytest

#: Characters. In base64 that is 64 KiB, more than Envoy lets through in headers.
LENGTH = 48 * 1024
MOST_WORDS = 3
MARKS = ("[", "{", '"', "\\", ",", ", ", ":", "|", "=", " ", "\t", "\n", "a", "0", "\u00e9", '{"a":', "- ", "&a ")


@pytest.mark.timeout(300)  # PyYAML needs a tenth of a second for most of them, more on a busy machine
@pytest.mark.parametrize("name", fuzzing.targets())
def test_a_long_input_of_one_shape_is_answered_in_time(name: str) -> None:
    target = fuzzing.load(name)
    words = [word for word in target.WORDS if isinstance(word, str) and word]

    for shape in dict.fromkeys((*MARKS, *words[:MOST_WORDS])):
        for data in target.grown((shape * (LENGTH // len(shape)))[:LENGTH]):
            fuzzing.held(target, data)
