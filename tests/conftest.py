"""Fixtures of the whole suite live in tests/support, one module per thing that is started."""

# Early: eth-account raises the recursion limit when it is imported, and pytest's report of a first failure would
# import hypothesis only then, which Python 3.11 cannot compile under such a limit.
import fault_options
import golden
import hypothesis  # noqa: F401
import pytest
import row_marks
from chain import chain, fresh_chain  # noqa: F401 - fixtures
from gateway_process import start_gateway as start_gateway
from hostile_gateway import hostile_target as hostile_target
from ledgers import ledger, store  # noqa: F401 - fixtures
from places import place as place
from promises import world as world
from second_reader import mppx as mppx


def pytest_addoption(parser: pytest.Parser) -> None:
    golden.pytest_addoption(parser)
    fault_options.pytest_addoption(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(row_marks.Recorder(config.rootpath))
