"""Takes the script that shows tiles, OpenSeadragon (BSD-3), from npm, and compares its checksum: `make viewer`.

Run as a file, before Plateflow is installed, by make and by setup.py; it needs nothing but Python and npm.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "6.1.1"
SHA256 = "b4ab2942f33b90e0448e4d20fc5ed14cee049f1f3ae49d70afd4b05e9a2f92d0"
FILES = {
    "package/build/openseadragon/openseadragon.min.js": "openseadragon.min.js",
    "package/LICENSE.txt": "openseadragon.LICENSE.txt",
}
"""Of the package, with their names here; its pictures of buttons aren't used."""


def fetch(folder: Path) -> None:
    """Put the files into a folder, each by rename; where they are of this version already, nothing is done.

    Raises:
        RuntimeError: npm isn't there, or fails, or what it gives isn't what is pinned.
    """
    script, first = folder / "openseadragon.min.js", f"//! openseadragon {VERSION}\n".encode()
    if script.is_file() and script.read_bytes().startswith(first):
        return
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(
            "npm isn't installed: install it (Debian: apt install npm), or use a wheel that has the script"
        )
    with tempfile.TemporaryDirectory() as temporary:
        words = [npm, "pack", f"openseadragon@{VERSION}", "--ignore-scripts", "--pack-destination", temporary]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=temporary)
        archives = list(Path(temporary).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            raise RuntimeError(f"npm could not get openseadragon@{VERSION}: {done.stderr.strip()[-500:]}")
        found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
        if found != SHA256:
            raise RuntimeError(f"openseadragon@{VERSION} from npm has the checksum {found}, not {SHA256}: not used")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archives[0]) as archive:
            for name, target in sorted(FILES.items()):  # the licence first: the script is what counts as there
                member = archive.extractfile(name)
                if member is None:
                    raise RuntimeError(f"openseadragon@{VERSION} lacks {name}")
                partial = folder / f".{target}.partial"
                partial.write_bytes(member.read())
                partial.replace(folder / target)


if __name__ == "__main__":
    try:
        fetch(Path(__file__).parent / "static")
    except RuntimeError as error:
        sys.exit(str(error))
