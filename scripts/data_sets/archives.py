"""Reads files out of packages without unpacking them."""

import io
import re
import subprocess
import tarfile
import zipfile
import zlib

from .errors import Problem


def from_zip(path, wanted):
    with zipfile.ZipFile(path) as archive:
        return {i.filename: archive.read(i) for i in archive.infolist() if wanted(i.filename)}


def from_tar(stream, wanted):
    with tarfile.open(fileobj=stream) as archive:
        named = [(m.name.removeprefix("./"), m) for m in archive if m.isfile()]
        return {name: archive.extractfile(m).read() for name, m in named if wanted(name)}


def from_debian(path, wanted):
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", path], capture_output=True)
    if files.returncode != 0:
        raise tarfile.TarError(files.stderr.decode(errors="replace").strip())
    return from_tar(io.BytesIO(files.stdout), wanted)


def read(path, pattern):
    """{name: bytes}, sorted, of the regular files of a .deb, .whl, .zip or .tar.gz whose whole
    names match the regular expression; a Problem where there is none."""
    wanted = re.compile(pattern).fullmatch
    try:
        if path.suffix == ".deb":
            files = from_debian(path, wanted)
        elif path.suffix in (".whl", ".zip"):
            files = from_zip(path, wanted)
        else:
            with path.open("rb") as stream:
                files = from_tar(stream, wanted)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise Problem(
            f"{path.name} cannot be read: {error}. The download was damaged: try again."
        ) from error
    if not files:
        raise Problem(
            f"{path.name} has no file {pattern}. The package is another than that expected: "
            "scripts/data knows the one of Debian 12 or of PyPI that it names."
        )
    return dict(sorted(files.items()))


def read_one(path, pattern):
    """The bytes of the only file that matches."""
    (content,) = read(path, pattern).values()
    return content


def put_beside(path, pattern):
    """Puts the only file that matches beside the archive. Its path."""
    ((name, content),) = read(path, pattern).items()
    target = path.with_name(name.rpartition("/")[2])
    target.write_bytes(content)
    return target
