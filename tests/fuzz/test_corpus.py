"""Every seed, and whatever the search found before, against every promise of its target: no fuzzer is needed."""

from pathlib import Path

import check_request
import fuzzing
import pytest

from mpp_authz.verdicts import Allow

SEEDS = [(name, path) for name in fuzzing.targets() for path in sorted((fuzzing.CORPUS / name).iterdir())]


@pytest.mark.parametrize(("name", "path"), SEEDS, ids=lambda value: getattr(value, "name", value))
def test_an_input_that_was_seen_before_breaks_no_promise(name: str, path: Path) -> None:
    fuzzing.held(fuzzing.load(name), path.read_bytes())


def test_every_answer_a_check_can_get_is_among_the_seeds() -> None:
    answers = [check_request.answer(path.read_bytes()) for name, path in SEEDS if name == "check_request"]

    assert {answer.reason for answer in answers if answer is not None} >= {
        *("paid", "credit", "payment-required", "malformed-credential", "invalid-challenge", "payment-expired"),
        *(
            "verification-failed",
            "payment-in-progress",
            "insecure-transport",
            "bad-request",
            "service-unavailable",
        ),
    }
    assert sum(isinstance(answer, Allow) for answer in answers) >= 5
