"""How log lines look, and what they never hold."""

import logging
import subprocess
import sys

from mpp_authz import logs


def line(record: logging.LogRecord) -> str:
    return logs.Fields().format(record)


def record(message: str, *, error: BaseException | None = None, **fields: object) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("mpp_authz.x", logging.INFO, "x.py", 1, message, (), info)
    made.__dict__.update(fields)
    return made


def test_a_line_has_its_event_and_its_fields_in_order() -> None:
    said = line(record("pricing loaded", routes=3, revision="r 1"))

    assert said.endswith("INFO mpp_authz.x pricing loaded routes=3 revision='r 1'")


def test_a_field_cannot_begin_another_line() -> None:
    assert "\n" not in line(record("x", text="a\nERROR forged"))


def test_an_error_shows_where_and_of_which_kind_and_none_of_its_words() -> None:
    def parse() -> None:
        raise ValueError("signature 0x5ec4e7 is wrong")

    try:
        try:
            parse()
        except ValueError as error:
            raise RuntimeError("credential eyJz") from error
    except RuntimeError as error:
        said = line(record("check failed", error=error))

    assert "check failed" in said
    assert "in parse" in said
    assert "ValueError" in said
    assert "RuntimeError" in said
    assert "5ec4e7" not in said.replace('raise ValueError("signature 0x5ec4e7 is wrong")', "")
    assert "eyJz" not in said.replace('raise RuntimeError("credential eyJz") from error', "")


def test_an_error_raised_while_another_was_handled_shows_both() -> None:
    try:
        try:
            raise KeyError("k")
        except KeyError:
            raise TypeError("t")  # noqa: B904 - what is tested
    except TypeError as error:
        said = line(record("x", error=error))

    assert said.index("TypeError\n") < said.index("KeyError")


def test_logs_go_to_standard_error_from_the_level_that_is_asked_for() -> None:
    program = (
        "import logging; from mpp_authz import logs; logs.to_stderr('warning');"
        "logging.getLogger('a').info('quiet'); logging.getLogger('a').warning('loud', extra={'n': 1});"
        "logging.getLogger('httpx').info('http://key@rpc')"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == ""
    assert done.stderr.endswith("WARNING a loud n=1\n")
    assert done.stderr.count("\n") == 1
