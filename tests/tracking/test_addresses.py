"""Laws of addresses: the order in which one is looked for, and no secret in what is shown."""

from pathlib import Path

import pytest

from madpipe.errors import TrackingError
from madpipe.tracking.addresses import artifact_root, dialect_of, host_and_port, redact, scrub, sqlite_path, store_uri

SECRETIVE = [
    "http://ada:s3cret@host:5000",
    "https://ada:s3cret@host/mlflow?token=s3cret",
    "http://host/?token=s3cret",
    "http://host?token=s3cret@x",
    "http://ada:s3/cret@host/",
    "http://ada:pa?s3cret@host/",
    "http://ada:p@s3cret@host/",
    "http://s3cret@host/",
    "postgresql+psycopg://ada:s3cret@host:5432/db?sslpassword=s3cret",
    "sqlite:////data/mlflow.db?key=s3cret",
    "mlflow.db?key=s3cret",
    "https://ada:s3cret@[::1]:5000/",
]


@pytest.mark.parametrize("uri", SECRETIVE)
def test_what_is_shown_of_an_address_holds_no_secret(uri: str):
    assert "s3cret" not in redact(uri)
    assert "cret" not in redact(uri)


@pytest.mark.parametrize("uri", SECRETIVE)
def test_text_that_quotes_an_address_loses_its_secret(uri: str):
    assert "s3cret" not in scrub(f'request to {uri} failed, "uri": "{uri}", retrying', uri)


def test_host_port_and_path_stay_readable():
    assert redact("http://ada:s3cret@host:5000/mlflow?x=1") == "http://host:5000/mlflow"


@pytest.mark.parametrize("uri", ["http://host:5000", "sqlite:////home/a@b/mlflow.db", "models:/digits@champion"])
def test_an_address_without_secrets_is_shown_as_it_is(uri: str):
    assert redact(uri) == uri


def test_a_password_is_blotted_out_where_it_stands_without_its_address():
    assert scrub("login as ada with s3cret failed", "http://ada:s3cret@host") == "login as ada with *** failed"


def test_a_password_is_blotted_out_in_its_decoded_form_too():
    assert scrub("p@ss failed", "http://ada:p%40ss@host") == "*** failed"


def test_text_around_a_scrubbed_address_stays():
    text = '{"uri":"http://a:b@h","other":"sqlite:////x"} see http://h/a.'
    assert scrub(text) == '{"uri":"http://h","other":"sqlite:////x"} see http://h/a.'


def test_the_argument_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment")
    assert store_uri("http://from-argument") == "http://from-argument"
    assert store_uri(None) == "http://from-environment"


@pytest.mark.parametrize("empty", ["", None])
def test_without_any_address_the_store_is_an_absolute_sqlite_file_here(
    empty: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert store_uri(empty) == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_relative_sqlite_path_becomes_absolute_and_keeps_its_query(tmp_path: Path):
    assert store_uri("sqlite:///runs/my.db?timeout=9") == f"sqlite:///{tmp_path}/runs/my.db?timeout=9"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mlruns", "folder of files"),
        ("file:///tmp/mlruns", "folder of files"),
        ("foo://bar", "no scheme 'foo'"),
        ("sqlite:///:memory:", "keeps nothing"),
        ("sqlite://", "keeps nothing"),
        ("sqlite:////a/50%/mlflow.db", "cannot carry"),
        ("postgres://ada:s3cret@host/db", "no scheme 'postgres'"),
    ],
)
def test_what_is_no_address_is_refused_in_one_line_that_says_what_to_give(uri: str, said: str):
    with pytest.raises(TrackingError, match=said) as refused:
        store_uri(uri)
    assert "\n" not in str(refused.value)
    assert "--tracking-uri" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_path_to_a_database_is_answered_with_its_address(tmp_path: Path):
    with pytest.raises(TrackingError, match=f"Did you mean 'sqlite:///{tmp_path}/mlflow.db'"):
        store_uri("mlflow.db")


def test_artifacts_lie_beside_an_sqlite_file_and_are_a_servers_own_affair(tmp_path: Path):
    assert artifact_root("sqlite:////data/a b/mlflow.db") == "file:///data/a%20b/mlartifacts"
    assert artifact_root("postgresql://host/db") == f"file://{tmp_path}/mlartifacts"
    assert artifact_root("http://host:5000") is None


def test_the_dialect_is_the_scheme_without_its_driver():
    assert dialect_of("postgresql+psycopg://host/db") == "postgresql"
    assert dialect_of("databricks") == "databricks"
    assert dialect_of("a/b:c") == ""


def test_the_database_file_is_read_from_its_address():
    assert sqlite_path("sqlite:////data/mlflow.db?timeout=9") == Path("/data/mlflow.db")


def test_a_database_server_listens_at_its_own_port_unless_the_address_says_otherwise():
    assert host_and_port("postgresql://ada:s3cret@host/db") == ("host", 5432)
    assert host_and_port("mysql+pymysql://host:99/db") == ("host", 99)
    assert host_and_port("postgresql:///db") is None


def test_a_host_that_cannot_be_read_is_refused_without_its_password():
    with pytest.raises(TrackingError, match="cannot be read") as refused:
        host_and_port("postgresql://ada:s3cret@[bad/db")
    assert "s3cret" not in str(refused.value)
