"""Where credentials come from on one machine."""

from pathlib import Path

import pytest

from mpp_operator import ir, local_secrets

OPENAI = ir.SecretSource("shop", "openai", "api-key")
STRIPE = ir.SecretSource("shop", "stripe", "secret-key")


def put(directory: Path, source: ir.SecretSource, text: str) -> None:
    path = directory / source.namespace / source.name / source.key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_secret_is_read_from_its_file(tmp_path: Path) -> None:
    put(tmp_path, OPENAI, "sk-file\n")

    values = local_secrets.resolve([OPENAI], local_secrets.Folder(tmp_path, {"OPENAI_API_KEY": "sk-env"}))

    assert values == {OPENAI: "sk-file"}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (OPENAI, "OPENAI_API_KEY"),
        (STRIPE, "STRIPE_SECRET_KEY"),
        (ir.SecretSource("shop", "anthropic", "api-key"), "ANTHROPIC_API_KEY"),
        (ir.SecretSource("shop", "my.own", "tls.crt"), "MY_OWN_TLS_CRT"),
    ],
)
def test_without_a_file_the_environment_is_asked(source: ir.SecretSource, name: str) -> None:
    values = local_secrets.resolve([source], local_secrets.Folder(None, {name: "value"}))

    assert values == {source: "value"}


def test_all_that_is_missing_is_said_at_once_with_where_it_may_be_put(tmp_path: Path) -> None:
    with pytest.raises(local_secrets.SecretsError) as caught:
        local_secrets.resolve([STRIPE, OPENAI], local_secrets.Folder(tmp_path, {}))

    assert caught.value.problems == (
        f"secret shop/openai key api-key: expected a value in {tmp_path}/shop/openai/api-key "
        "or in the environment as OPENAI_API_KEY, found neither",
        f"secret shop/stripe key secret-key: expected a value in {tmp_path}/shop/stripe/secret-key "
        "or in the environment as STRIPE_SECRET_KEY, found neither",
    )


def test_an_empty_variable_is_a_missing_one() -> None:
    with pytest.raises(local_secrets.SecretsError, match="OPENAI_API_KEY, found neither"):
        local_secrets.resolve([OPENAI], local_secrets.Folder(None, {"OPENAI_API_KEY": ""}))


def test_an_empty_file_is_said_and_the_environment_does_not_hide_it(tmp_path: Path) -> None:
    put(tmp_path, OPENAI, "\n")

    with pytest.raises(local_secrets.SecretsError, match="got an empty file"):
        local_secrets.resolve([OPENAI], local_secrets.Folder(tmp_path, {"OPENAI_API_KEY": "sk-env"}))


def test_a_file_that_is_not_text_is_said(tmp_path: Path) -> None:
    put(tmp_path, OPENAI, "")
    (tmp_path / "shop" / "openai" / "api-key").write_bytes(b"\xff\xfe")

    with pytest.raises(local_secrets.SecretsError, match="not UTF-8"):
        local_secrets.resolve([OPENAI], local_secrets.Folder(tmp_path, {}))


def test_a_folder_where_a_file_belongs_is_said(tmp_path: Path) -> None:
    (tmp_path / "shop" / "openai" / "api-key").mkdir(parents=True)

    with pytest.raises(local_secrets.SecretsError, match="Is a directory"):
        local_secrets.resolve([OPENAI], local_secrets.Folder(tmp_path, {}))


def test_two_namespaces_never_share_a_variable_unasked(tmp_path: Path) -> None:
    other = ir.SecretSource("lab", "openai", "api-key")
    environ = {"OPENAI_API_KEY": "sk-env"}

    with pytest.raises(local_secrets.SecretsError) as caught:
        local_secrets.resolve([OPENAI, other], local_secrets.Folder(tmp_path, environ))

    assert "give each its own file" in str(caught.value)
    assert f"{tmp_path}/lab/openai/api-key" in str(caught.value)
    assert "sk-env" not in str(caught.value)


def test_a_file_for_one_namespace_leaves_the_variable_to_the_other(tmp_path: Path) -> None:
    other = ir.SecretSource("lab", "openai", "api-key")
    put(tmp_path, other, "sk-lab")

    values = local_secrets.resolve([OPENAI, other], local_secrets.Folder(tmp_path, {"OPENAI_API_KEY": "sk-env"}))

    assert values == {OPENAI: "sk-env", other: "sk-lab"}


def test_a_name_with_a_way_out_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("not yours")
    source = ir.SecretSource("shop", "..", "outside")

    with pytest.raises(local_secrets.SecretsError, match="found neither"):
        local_secrets.resolve([source], local_secrets.Folder(tmp_path / "secrets", {}))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_variable_s_last_line_end_is_no_part_of_its_value(end: str) -> None:
    source = ir.SecretSource("shop", "openai", "api-key")

    found = local_secrets.resolve([source], local_secrets.Folder(None, {"OPENAI_API_KEY": f"sk-1{end}"}))

    assert found == {source: "sk-1"}


def test_a_variable_that_is_nearly_the_one_is_named_without_its_value() -> None:
    source = ir.SecretSource("shop", "openai", "api-key")

    with pytest.raises(local_secrets.SecretsError) as caught:
        local_secrets.resolve([source], local_secrets.Folder(None, {"OPENAI_APIKEY": "hunter2"}))

    (problem,) = caught.value.problems
    assert problem.endswith("found neither; is OPENAI_APIKEY misspelled?")
    assert "hunter2" not in problem
