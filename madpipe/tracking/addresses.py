"""Where the MLflow store is: the order in which its address is looked for, and addresses without their secrets."""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from madpipe.errors import MissingFileError, TrackingError

DATABASE_PORTS = {
    "postgresql": 5432,
    "mysql": 3306,
    "mssql": 1433,
}  # their own defaults, used when the address names none
_ANSWERED_BY = ("http", "https", "sqlite", "databricks", "databricks-uc", "uc", *DATABASE_PORTS)
_URI = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s"<>]*""")
_TO_DO = "Use sqlite:////absolute/path/mlflow.db or http(s)://host:port in --tracking-uri or MLFLOW_TRACKING_URI."


def store_uri(tracking_uri: str | None) -> str:
    """The address in use: `tracking_uri`, else MLFLOW_TRACKING_URI, else `sqlite:///<current directory>/mlflow.db`.

    A relative sqlite path is made absolute against the current directory. TrackingError for an address that is none
    (a bare path, `file:`, an unknown scheme). The result may hold credentials: show `redact` of it only.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    dialect = dialect_of(uri)
    if not dialect and Path(uri).suffix in (".db", ".sqlite"):
        raise TrackingError(f"'{uri}' is a path, not an address. Did you mean 'sqlite:///{Path.cwd() / uri}'?")
    if not dialect or dialect == "file":
        raise TrackingError(f"'{redact(uri)}' is a folder of files, which MLflow no longer writes to. {_TO_DO}")
    if dialect not in _ANSWERED_BY:
        raise TrackingError(f"'{redact(uri)}' is no address of an MLflow store: no scheme '{dialect}'. {_TO_DO}")
    return uri if dialect != "sqlite" else _absolute_sqlite(uri)


def dialect_of(uri: str) -> str:
    """`"postgresql"` of `postgresql+psycopg://...`; `""` of a bare path."""
    if uri in ("databricks", "databricks-uc"):
        return uri
    scheme, mark, _ = uri.partition(":")
    return scheme.lower().partition("+")[0] if mark and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) else ""


def sqlite_path(uri: str) -> Path:
    """The database file of a `sqlite:///` address, absolute or as written."""
    return Path(uri.partition(":///")[2].partition("?")[0])


def existing_store(tracking_uri: str | None) -> str:
    """`store_uri`, once its sqlite file is there: MissingFileError where looking would make an empty store."""
    uri = store_uri(tracking_uri)
    if dialect_of(uri) == "sqlite" and not sqlite_path(uri).is_file():
        raise MissingFileError(
            f"no MLflow store at {sqlite_path(uri)}. Run 'madpipe fit' there first, or give --tracking-uri."
        )
    return uri


def artifact_root(uri: str) -> str | None:
    """Absolute `file:` address for artifacts: beside an sqlite file, in the current directory for a database server.

    None where a server answers, since its artifacts are its own affair.
    """
    dialect = dialect_of(uri)
    if dialect == "sqlite":
        return (sqlite_path(uri).parent / "mlartifacts").as_uri()
    return (Path.cwd() / "mlartifacts").as_uri() if dialect in DATABASE_PORTS else None


def redact(uri: str) -> str:
    """`uri` without user, password and query: what may be shown, stored and logged.

    An address in which it is not certain where the password ends is shown as `scheme://***`.
    """
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return uri.partition("?")[0]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if authority and "@" in rest[len(authority) :]:
        return f"{scheme}://***"
    host = authority.rpartition("@")[2]
    return f"{scheme}://{host}{rest[len(authority) :].partition('?')[0]}"


def scrub(text: str, uri: str = "") -> str:
    """`text` with every address in it redacted, and with the secrets of `uri` replaced wherever else they stand."""
    shown = _URI.sub(lambda found: redact(found.group()), text)
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        shown = shown.replace(secret, "***")
    return shown


def _secrets(uri: str) -> set[str]:
    rest = uri.partition("://")[2] or uri
    login = "" if rest.startswith("/") else rest.rpartition("@")[0]
    values = [pair.partition("=")[2] for pair in rest.partition("?")[2].split("&")]
    found = {login, login.partition(":")[2], *values}
    found |= {unquote(secret) for secret in found}  # libraries may quote it as it was before it was encoded
    return {secret for secret in found if len(secret) >= 3}  # shorter ones would blot out ordinary words


def _absolute_sqlite(uri: str) -> str:
    path = sqlite_path(uri)
    if not path.name or str(path) == ":memory:":
        raise TrackingError(f"'{redact(uri)}' keeps nothing: it names no file. {_TO_DO}")
    absolute = Path.cwd() / path
    if set("%?") & set(str(absolute)):
        raise TrackingError(f"the path {absolute} holds a '%' or '?', which an sqlite address cannot carry. {_TO_DO}")
    head, _, rest = uri.partition(":///")
    query = rest.partition("?")[2]
    return f"{head}:///{absolute}{'?' + query if query else ''}"


def host_and_port(uri: str) -> tuple[str, int] | None:
    """Where a database server listens; None where the address names no host."""
    try:
        parts = urlsplit(uri)
        return (parts.hostname, parts.port or DATABASE_PORTS[dialect_of(uri)]) if parts.hostname else None
    except ValueError:
        raise TrackingError(
            f"'{redact(uri)}' is no address of an MLflow store: its host or port cannot be read."
        ) from None
