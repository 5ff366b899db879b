"""Zero-amount proofs, version 3, as mppx 0.11 signs them."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import pytest

from mpp_authz.methods import proof

KEY = "0x" + "01" * 32
ACCOUNT = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1"


@dataclasses.dataclass(frozen=True)
class Vector:
    challenge_id: str
    realm: str
    chain_id: int
    digest: str
    signature: str


#: Made by viem 2.56.0 with mppx 0.11.0's `Proof.typedData`: `node tests/js/proof.mjs` prints them.
VECTORS = (
    Vector(
        "kM9xPqWvT2nJrHsY4aDfEb",
        "api.example.com",
        4217,
        "0x7d7b3364606ca6e08996ebb9629fa1aa41a3a8e217560cd61a089388f50132ea",
        "0xa96b2be7460d4a412ce4567d2cc59fc063e812de1e3e4e68e34915fe1c6c1e2b"
        "6651124f7ed9abaf9afd469658c0cb8ec4f306d5a4f5e1df880b363ae9327f451b",
    ),
    Vector(
        "c2hvcA",
        "shop.example",
        31337,
        "0x0888c236ea4635921a2e7560b1ef95ef4221ff1d86b85671d2effafd97278d6b",
        "0xcfecf2bf0a3be1fbe2895d68e1ca617ad6f8c0eac15da8dd858d606636dbe2fd"
        "1f20e217a1dbfd2a4eee5e630fef0a114c2cbd422fe8310cc139afb0fcf0b8f91c",
    ),
)


@pytest.mark.parametrize("vector", VECTORS)
def test_the_digest_is_eip_712_version_3(vector: Vector) -> None:
    found = proof.digest(
        account=ACCOUNT, challenge_id=vector.challenge_id, realm=vector.realm, chain_id=vector.chain_id
    )

    assert "0x" + found.hex() == vector.digest


@pytest.mark.parametrize("vector", VECTORS)
def test_a_payer_signs_as_mppx_does(vector: Vector) -> None:
    signature, source = proof.sign(
        KEY, challenge_id=vector.challenge_id, realm=vector.realm, chain_id=vector.chain_id
    )

    assert (signature, source) == (vector.signature, f"did:pkh:eip155:{vector.chain_id}:{ACCOUNT}")


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.row("H13")
def test_the_signature_of_mppx_proves_its_account(vector: Vector) -> None:
    assert proof.proves(
        vector.signature,
        account=ACCOUNT,
        challenge_id=vector.challenge_id,
        realm=vector.realm,
        chain_id=vector.chain_id,
    )


@pytest.mark.parametrize("changed", ["account", "challenge_id", "realm", "chain_id"])
def test_a_proof_is_good_for_nothing_else(changed: str) -> None:
    said = {"account": ACCOUNT, "challenge_id": "c2hvcA", "realm": "shop.example", "chain_id": 31337}
    other = {"account": "0x" + "22" * 20, "challenge_id": "c2hvcB", "realm": "shop.example.org", "chain_id": 4217}
    signature, _ = proof.sign(KEY, challenge_id="c2hvcA", realm="shop.example", chain_id=31337)

    assert proof.proves(signature, **said)  # type: ignore[arg-type]
    assert not proof.proves(signature, **(said | {changed: other[changed]}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "signature", [None, 7, "", "0x", "0x" + "00" * 65, "0x" + "ff" * 65, "0x" + "11" * 64 + "1c1b"]
)
def test_what_is_no_signature_proves_nothing(signature: object) -> None:
    assert not proof.proves(signature, account=ACCOUNT, challenge_id="c", realm="r", chain_id=1)


@hypothesis.given(st.text(max_size=40), st.text(max_size=40), st.integers(1, 2**53 - 1))
def test_every_proof_proves_its_signer(challenge_id: str, realm: str, chain_id: int) -> None:
    hypothesis.assume(_encodable(challenge_id) and _encodable(realm))

    signature, source = proof.sign(KEY, challenge_id=challenge_id, realm=realm, chain_id=chain_id)

    account = proof.source_address(source, chain_id)
    assert account == ACCOUNT.lower()
    assert proof.proves(signature, account=account, challenge_id=challenge_id, realm=realm, chain_id=chain_id)


@pytest.mark.parametrize(
    "source",
    [
        None,
        "",
        ACCOUNT,
        f"did:pkh:eip155:2:{ACCOUNT}",
        f"did:pkh:eip155:01:{ACCOUNT}",
        f"did:pkh:eip155:1:{ACCOUNT}\n",
    ],
)
def test_a_source_names_one_account_on_one_chain(source: str | None) -> None:
    assert proof.source_address(source, 1) is None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
