"""Fetches GraphiQL and what it runs on into api/remotegpu_api/static/vendor, with their licences.

Needs npm, which nothing else here does: run it only to change a version, and commit what it wrote.
Every archive is checked against the integrity below, so that the files are the same whichever
registry npm is set up to use.
"""

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "api/remotegpu_api/static/vendor"


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    #: Subresource Integrity of the npm archive.
    integrity: str
    files: tuple[str, ...]
    licence: str


PACKAGES = (
    Package(
        "graphiql",
        "3.8.3",
        "sha512-cuPDYtXVKV86Pu5PHBX642Odi/uVEE2y1Jxq5rGO/Qy1G2lRp7ZZ7a/T30RzxhuLSWo9zUbzq0P3U49//H0Ugw==",
        ("graphiql.min.js", "graphiql.min.css"),
        "LICENSE",
    ),
    Package(
        "react",
        "18.3.1",
        "sha512-wS+hAgJShR0KhEvPJArfuPVN1+Hz1t0Y6n5jLrGQbkb4urgPE/0Rve+1kMB1v/oWgHgm4WIcV+i7F2pTVj+2iQ==",
        ("umd/react.production.min.js",),
        "LICENSE",
    ),
    Package(
        "react-dom",
        "18.3.1",
        "sha512-5m4nQKp+rZRb09LNH59GM4BxTh9251/ylbKIbpe7TpGxfJ+9kv6BLkLBXIjjspbgbnIBNqlI23tRnTWT0snUIw==",
        ("umd/react-dom.production.min.js",),
        "LICENSE",
    ),
    Package(
        "graphql-ws",
        "5.16.2",
        "sha512-E1uccsZxt/96jH/OwmLPuXMACILs76pKF2i3W861LpKBCYtGIyPQGtWLuBLkND4ox1KHns70e83PS4te50nvPQ==",
        ("umd/graphql-ws.min.js",),
        "LICENSE.md",
    ),
)

#: How GraphiQL's bundle names the modules that were built into it.
BUNDLED = re.compile(r'"(?:\.\./)*node_modules/((?:@[^/"]+/)?[^/"]+)/')


def main() -> None:
    if shutil.which("npm") is None:
        sys.exit("This needs npm: install Node.js, then try again.")
    VENDOR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for package in PACKAGES:
            unpack(package, folder)
            for file in package.files:
                shutil.copyfile(folder / package.name / file, VENDOR / Path(file).name)
        (VENDOR / "LICENSES.md").write_text(licences(folder))


def unpack(package: Package, folder: Path) -> None:
    """Fetch `package` into a folder of its name, unless the archive is not the expected one."""
    npm("pack", "--silent", f"{package.name}@{package.version}", cwd=folder)
    archive = folder / f"{package.name}-{package.version}.tgz"
    digest = hashlib.sha512(archive.read_bytes()).digest()
    found = f"sha512-{base64.b64encode(digest).decode()}"
    if found != package.integrity:
        sys.exit(
            f"{archive.name} is not what it was: expected {package.integrity}, got {found}. "
            "Keep it away from this repository until you know why."
        )
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "unpacked", filter="data")
    (folder / "unpacked/package").rename(folder / package.name)


def licences(folder: Path) -> str:
    """The licence of everything in the folder, each text once."""
    texts: dict[str, list[str]] = {}
    for package in PACKAGES:
        text = (folder / package.name / package.licence).read_text().strip()
        texts.setdefault(text, []).append(f"{package.name} {package.version}")
    for name, text in bundled_licences(folder).items():
        texts.setdefault(text, []).append(f"{name} (in graphiql.min.js)")
    sections = [
        "## " + ", ".join(names) + "\n\n```\n" + text + "\n```\n" for text, names in texts.items()
    ]
    written_by = Path(__file__).name
    return f"# Licences of the files in this folder\n\nWritten by `{written_by}`.\n\n" + "\n".join(
        sections
    )


def bundled_licences(folder: Path) -> dict[str, str]:
    """Licence text by name for the packages that were built into GraphiQL's bundle."""
    bundle = (folder / "graphiql/graphiql.min.js").read_text()
    names = set(BUNDLED.findall(bundle)) - {package.name for package in PACKAGES}
    install = folder / "install"
    install.mkdir()
    wanted = [f"{package.name}@{package.version}" for package in PACKAGES]
    npm("install", "--silent", "--ignore-scripts", "--no-save", *wanted, cwd=install)
    # What GraphiQL's newest dependencies no longer need was still built into this bundle.
    gone = [name for name in sorted(names) if not any(install.glob(f"**/node_modules/{name}/"))]
    if gone:
        npm("install", "--silent", "--ignore-scripts", "--no-save", *wanted, *gone, cwd=install)
    found: dict[str, str] = {}
    for name in sorted(names):
        # npm nests a package of which it installed two versions.
        homes = sorted(install.glob(f"**/node_modules/{name}/"))
        found[name] = next(filter(None, map(licence_text, homes)), None) or declared(homes)
    if not found:
        sys.exit("GraphiQL's bundle names its modules in another way now: mend BUNDLED.")
    return found


def licence_text(home: Path) -> str | None:
    files = sorted(
        path
        for path in home.iterdir()
        if path.name.lower().startswith(("license", "licence")) and path.is_file()
    )
    return files[0].read_text().strip() if files else None


def declared(homes: list[Path]) -> str:
    """What packages without a licence file say of their licence."""
    descriptions = [(home / "package.json").read_text() for home in homes]
    named = {name for text in descriptions for name in re.findall(r'"license":\s*"([^"]+)"', text)}
    return f"The package has no licence file and declares: {', '.join(sorted(named)) or 'nothing'}."


def npm(*arguments: str, cwd: Path) -> None:
    subprocess.run(["npm", *arguments], cwd=cwd, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
