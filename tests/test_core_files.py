"""Nobody's crash writes memory to the disk."""

import resource
import subprocess
import sys

import missing
import pytest

SCRIPT = """
import resource
from mpp_operator import cli
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
try:
    cli.main({arguments!r})
except SystemExit:
    pass
print(resource.getrlimit(resource.RLIMIT_CORE) == (0, hard), hard != 0)
"""


@pytest.mark.row("C21")
@pytest.mark.parametrize(
    "arguments", [["bootstrap", "--instance", "a"], ["authz", "--help"], ["payments", "--help"]]
)
def test_whatever_command_runs_no_core_file_is_written_of_it_or_its_children(arguments: list[str]) -> None:
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        missing.error_or_skip("core files cannot be allowed here: raise the hard limit (ulimit -Hc unlimited)")

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(arguments=arguments)], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "True True"
