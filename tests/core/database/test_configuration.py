import subprocess
import sys

import pytest

from remotegpu_core.database.configuration import TORTOISE_ORM, tortoise_config
from remotegpu_core.errors import InvalidInput
from remotegpu_core.settings import load_settings


def credentials(url: str) -> dict[str, object]:
    config = tortoise_config(load_settings(database_url=url))
    found: dict[str, object] = config["connections"]["default"]["credentials"]
    return found


def test_a_postgres_url_with_everything() -> None:
    found = credentials("postgresql://me:p%40ss%2Fword@db.example.org:5433/gpu?maxsize=7")
    assert found["user"] == "me"
    assert found["password"] == "p@ss/word"
    assert (found["host"], found["port"], found["database"]) == ("db.example.org", 5433, "gpu")
    assert (found["minsize"], found["maxsize"]) == (1, 7)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:S3cret-word@h/db",
        "sqlite:///S3cret-word",
        # A password whose special characters were not escaped ends where the URL says so.
        "postgres://me:S3cret-word#more@h/db",
        "postgres://me:S3cret-word/more@h/db",
        "postgres://me:x@h:S3cret-word/db",
        "postgres://me:x@h:99999/S3cret-word",
        "postgres://me:S3cret-word@h/db?maxsize=many",
        "postgres://me:S3cret-word@h/",
        "postgres://[S3cret-word",
    ],
)
def test_a_url_that_cannot_be_used_is_explained_without_its_secrets(url: str) -> None:
    with pytest.raises(InvalidInput, match="REMOTEGPU_DATABASE_URL") as caught:
        credentials(url)
    assert "S3cret-word" not in caught.value.message


def test_importing_looks_at_no_environment() -> None:
    # Whoever starts a program with a wrong setting gets its explanation, not an import error.
    program = (
        "import remotegpu_core.control_plane\n"
        "from remotegpu_core.errors import InvalidInput\n"
        "from remotegpu_core.settings import load_settings\n"
        "try:\n"
        "    load_settings()\n"
        "except InvalidInput as error:\n"
        "    print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"REMOTEGPU_PORT": "many"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "REMOTEGPU_PORT" in done.stdout


def test_what_makemigrations_reads_is_sqlite() -> None:
    assert TORTOISE_ORM["connections"]["default"]["engine"].endswith("sqlite_engine")
