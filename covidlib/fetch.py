"""The Zenodo release of COVID-19-CT-Seg: downloaded, checked and unpacked, or told how to place it by hand."""

import logging
import shutil
from pathlib import Path, PureWindowsPath
from zipfile import BadZipFile, ZipFile

from covidlib.errors import DataError

ZENODO = "https://zenodo.org/records/3757476/files"
ARCHIVES = {  # name -> SHA-256; flat, and with the same file names inside, so each needs a folder of its own
    "COVID-19-CT-Seg_20cases.zip": "a5060480eff9315b069b086312dac4872777901fb80d268a5a83edd9f4e7b440",
    "Lung_and_Infection_Mask.zip": "34f5a573cb8fb53cb15abe81868395d9addf436854826a6fd6e70c2b294f19c3",
    "Lung_Mask.zip": "f060b0d0299939a6d95ddefdbfa281de1a779c4d230a5adbd32414711d6d8187",
    "Infection_Mask.zip": "87901c73fdd2230260e61d2dbc57bf56026efc28264006b8ea2bf411453c1694",
}
ATTEMPTS = 4
log = logging.getLogger("covidlib")


def fetch(folder: str | Path, base_url: str = ZENODO, archives: dict[str, str] = ARCHIVES) -> Path:
    """Get the release, unpack each zip into ``folder/<its name without .zip>/`` and return ``folder``.

    Args:
        folder: what it holds is kept: an unpacked folder as it is, a zip in ``archives/`` if its checksum is right.
        base_url: the address before each archive's name; a broken transfer goes on where it broke.
        archives: archive name -> SHA-256 in hexadecimal digits.

    Raises:
        DataError: an archive cannot be had or unpacked; says what was tried and how to place the files by hand.
    """
    import pooch

    folder, base_url = Path(folder).expanduser(), base_url.rstrip("/")
    if missing := _missing(folder, archives):
        log.info("getting %s into %s (the whole release: about 1.1 GB to load, 2.2 GB of disk)", ", ".join(missing), folder)
    store = pooch.create(folder / "archives", f"{base_url}/", registry=missing, retry_if_failed=ATTEMPTS - 1)
    for name in missing:
        archive = folder / "archives" / name
        try:
            _unpack(Path(store.fetch(name, downloader=_resume)))
        except (OSError, ValueError, BadZipFile) as error:  # requests raises OSErrors; a wrong checksum is a ValueError
            raise DataError(_by_hand(archive, base_url, _missing(folder, archives), error)) from error
    return folder


def _missing(folder: Path, archives: dict[str, str]) -> dict[str, str]:
    return {name: sha256 for name, sha256 in archives.items() if not any((folder / Path(name).stem).glob("*.nii*"))}


def _resume(url: str, output_file: str, _store: object) -> None:
    """Download for pooch; what came before a break waits in a .part file. (Pooch checks the whole, drops a bad one.)"""
    import requests
    from tqdm import tqdm

    part = Path(output_file).with_name(f"{url.rsplit('/', 1)[1]}.part")
    with part.open("ab") as out:
        headers = {"Range": f"bytes={out.tell()}-", "Accept-Encoding": "identity"}
        with requests.get(url, stream=True, timeout=30, headers=headers) as answer:
            if answer.status_code in (200, 416):  # the whole file again, or no such rest: what is here is of no use
                out.truncate(0)
            answer.raise_for_status()
            size = int(answer.headers.get("Content-Length", 0)) / 2**20
            for chunk in tqdm(answer.iter_content(2**20), part.stem, total=size, unit="MiB", disable=None):
                out.write(chunk)
    part.replace(output_file)


def _unpack(archive: Path) -> None:
    half_done = archive.with_suffix(".unpacking")
    shutil.rmtree(half_done, ignore_errors=True)
    with ZipFile(archive) as content:
        for path in map(PureWindowsPath, content.namelist()):  # splits at both slashes, knows drives
            if path.anchor or ".." in path.parts:
                raise ValueError(f"its member {path.as_posix()} would be written outside its folder")
        content.extractall(half_done)
    half_done.replace(archive.parent.with_name(archive.stem))


def _by_hand(archive: Path, base_url: str, missing: dict[str, str], error: Exception) -> str:
    steps = "\n".join(f"  {base_url}/{name}  ->  {archive.with_name(name)}  (SHA-256 {missing[name]})" for name in missing)
    return (f"{archive.name} could not be had from {base_url} and unpacked, in {ATTEMPTS} attempts: {error}\nRun this again "
            f"to go on where it stopped, or load these with a browser, place them so, and run this again:\n{steps}\n"
            f"Unpacked is as good: the files of {archive.name} in {archive.parent.with_name(archive.stem)}, and so on.")
