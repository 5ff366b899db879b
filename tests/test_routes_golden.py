"""What the artifacts look like, example by example, and what the real Envoy says of each.

pytest tests/test_routes_golden.py --update-golden     writes the expected files anew
"""

import json
from pathlib import Path

import irs
import pytest

from mpp_operator import envoy
from mpp_operator.artifacts import clusters, routes

TESTDATA = Path(__file__).parent / "testdata"


@pytest.mark.parametrize("name", irs.examples())
def test_an_example_renders_to_its_golden_files(name: str, request: pytest.FixtureRequest) -> None:
    gateway = irs.examples()[name]

    rendered = {**routes.render(gateway), **clusters.render(gateway)}

    for file, text in rendered.items():
        golden = TESTDATA / name / file
        pretty = json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n"
        if request.config.getoption("--update-golden"):
            golden.parent.mkdir(parents=True, exist_ok=True)
            golden.write_text(pretty)
        assert golden.read_text() == pretty


@pytest.mark.parametrize("name", irs.examples())
def test_the_real_envoy_accepts_an_example(name: str) -> None:
    gateway = irs.examples()[name]

    complaints = envoy.validate({**routes.render(gateway), **clusters.render(gateway)})

    assert complaints == ()
