"""What somebody reads whose transfer reached us and pays for something else."""

import json

from promises import World

from mpp_authz.methods import TransferRefused
from mpp_authz.verdicts import Deny


async def test_a_refused_transfer_is_told_why_in_whole_sentences(world: World) -> None:
    pushed = world.push(await world.challenge())
    world.rail.verify_says = TransferRefused("0xother", "The transfer is of another token.")

    verdict = await world.present(pushed)

    assert isinstance(verdict, Deny)
    assert json.loads(verdict.body)["detail"] == (
        "This transfer cannot pay for this request. The transfer is of another token. "
        "Do not pay again; ask the operator."
    )
