"""EIP-55: the capitals of an address in mixed case are a checksum."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paidservices import changed, document

from mpp_operator import addresses, gateway, paidservice
from mpp_operator.compiler import RecipientSource, lower

#: Of EIP-55 itself: "Normal".
VECTORS = (
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
)
WRONG = VECTORS[0].replace("5aAeb6053F3E", "5aAeb6053F3F")
RECIPIENT = "spec.payment.offers[0].recipient"


def _problems(field: str, value: object) -> dict[str, str]:
    with pytest.raises(paidservice.SpecError) as caught:
        paidservice.parse(changed(document(), {field: value}))
    return {problem.field: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("address", VECTORS)
def test_an_address_of_the_standard_is_right(address: str) -> None:
    assert not addresses.mistyped(address)


@pytest.mark.parametrize("address", VECTORS)
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_an_address_in_one_case_has_no_checksum(address: str, case: Callable[[str], str]) -> None:
    assert not addresses.mistyped("0x" + case(address[2:]))


@given(st.sampled_from(VECTORS), st.integers(2, 41))
def test_a_letter_in_the_other_case_is_seen(address: str, place: int) -> None:
    swapped = address[:place] + address[place].swapcase() + address[place + 1 :]

    assert addresses.mistyped(swapped) == (swapped != address)


@pytest.mark.parametrize("text", ["", "pathUSD", "0xAb", VECTORS[0] + "0"])
def test_what_is_no_address_is_not_judged(text: str) -> None:
    assert not addresses.mistyped(text)


@pytest.mark.parametrize("address", [VECTORS[0], VECTORS[0].lower(), "0x" + VECTORS[0][2:].upper()])
def test_a_recipient_may_be_written_in_either_case_or_with_its_checksum(address: str) -> None:
    service = paidservice.parse(changed(document(), {RECIPIENT: address}))

    assert [offer.recipient for offer in service.spec.payment.offers or ()] == [address]


def test_a_recipient_with_a_wrong_checksum_is_refused_by_its_field() -> None:
    found = _problems(RECIPIENT, WRONG)

    assert list(found) == [RECIPIENT]
    assert "checksum" in found[RECIPIENT]


def test_a_token_with_a_wrong_checksum_is_refused_by_its_field() -> None:
    assert "checksum" in _problems("spec.payment.offers[0].currency", WRONG)["spec.payment.offers[0].currency"]


def test_a_recipient_of_gateway_yaml_with_a_wrong_checksum_is_refused() -> None:
    with pytest.raises(paidservice.SpecError, match=r"namespaces\.shop\.recipients\[0\]: .*checksum"):
        gateway.parse({"namespaces": {"shop": {"recipients": [WRONG]}}})


def test_a_recipient_read_from_a_secret_with_a_wrong_checksum_is_refused_and_not_repeated() -> None:
    offer = {
        "method": "tempo",
        "network": "moderato",
        "currency": "pathUSD",
        "recipientFrom": {"secretRef": {"name": "shop", "key": "address"}},
    }
    service = paidservice.parse(changed(document(), {"spec.payment.offers[0]": offer}))
    source = RecipientSource("Secret", "shop", "shop", "address")

    conditions = lower([service], gateway.parse({}), {source: WRONG}).conditions[service.key]

    assert not conditions[0].status
    assert (
        "spec.payment.offers[0].recipientFrom: expected an address whose EIP-55 checksum" in conditions[0].message
    )
    assert "in key 'address' of Secret shop/shop" in conditions[0].message
    assert WRONG[2:] not in conditions[0].message
