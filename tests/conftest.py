"""Fixtures of the whole suite live in tests/support, one module per thing that is started."""
