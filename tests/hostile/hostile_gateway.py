"""One gateway for each upstream, for all hostile tests."""

from collections.abc import Iterator

import hostile_targets
import hostile_upstreams
import missing
import pytest


@pytest.fixture(scope="session", params=hostile_upstreams.KINDS)
def hostile_target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[hostile_targets.Target]:
    """A gateway in front of each of the upstreams in turn."""
    place = tmp_path_factory.mktemp("hostile")
    try:
        with (
            hostile_upstreams.running(request.param, place / "upstream") as upstream,
            hostile_targets.gateway(upstream, place / "gateway") as gateway,
        ):
            yield gateway
    except hostile_upstreams.Missing as error:
        missing.error_or_skip(str(error))
