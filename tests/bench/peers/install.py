"""The peers, each in a virtual environment of its own.

    python tests/bench/peers/install.py FOLDER [NAME ...]

Python 3.11 is what all of them support. Two need what they do not declare: distilabel `requests`; datatrove's extra for
inference wants GPU engines, so the packages that its endpoint client imports are named here. EasyDistill is not on the
package index beyond an empty 0.0.1, so it is not measured.
"""

import subprocess
import sys
import venv
from pathlib import Path

PEERS = {
    "datatrove": ("datatrove==0.10.1", "aiosqlite", "xxhash", "orjson", "httpx", "aiofiles", "openai"),
    "curator": ("bespokelabs-curator==0.1.31",),
    "designer": ("data-designer==0.9.6",),
    "distilabel": ("distilabel[openai]==1.5.3", "requests"),
}
"""Name to what is installed; the first is the peer itself. `run_NAME.py` measures it."""


def python_of(folder: Path, name: str) -> Path:
    return folder / name / "bin" / "python"


def version_of(folder: Path, name: str) -> str:
    package = PEERS[name][0].split("==")[0].split("[")[0]
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.check_output([python_of(folder, name), "-c", code], text=True).strip()


def install(folder: Path, name: str) -> None:
    venv.create(folder / name, with_pip=True)
    subprocess.run([python_of(folder, name), "-m", "pip", "install", "-q", *PEERS[name]], check=True)


if __name__ == "__main__":
    for each in sys.argv[2:] or PEERS:
        install(Path(sys.argv[1]), each)
