"""Fixtures of the whole suite live in tests/support, one module per thing that is started."""

from chain import chain, fresh_chain  # noqa: F401 - fixtures
