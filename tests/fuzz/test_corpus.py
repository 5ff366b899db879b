"""Every seed, and whatever the search found before, against every promise of its target: no fuzzer is needed."""

import check_request
import fuzzing
import pytest

from mpp_authz.verdicts import Allow

SEEDS = [
    pytest.param(name, data, id=f"{name}-{seed}")
    for name in fuzzing.targets()
    for seed, data in fuzzing.seeds(name).items()
]


@pytest.mark.parametrize(("name", "data"), SEEDS)
def test_an_input_that_was_seen_before_breaks_no_promise(name: str, data: bytes) -> None:
    fuzzing.held(fuzzing.load(name), data)


def test_every_answer_a_check_can_get_is_among_the_seeds() -> None:
    answers = [check_request.answer(data) for data in fuzzing.seeds("check_request").values()]

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
