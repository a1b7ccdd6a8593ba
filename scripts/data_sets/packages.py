"""Downloads packages. Nothing is installed, and no code of a package runs."""

import functools
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import environment
from .errors import Problem, say


@dataclass(frozen=True)
class Debian:
    """A package of Debian 12. apt checks it against the signed lists; a version is named where
    another one has other files."""

    name: str
    version: str = ""

    def __str__(self):
        return f"Debian {self.name}"

    def download(self, folder):
        wanted = f"{self.name}={self.version}" if self.version else self.name
        if not self.is_known(wanted):
            if os.geteuid() != 0:
                raise Problem(
                    f"apt does not know {wanted}. Refresh its lists, then run scripts/data again: "
                    "sudo apt-get update"
                )
            if subprocess.run(["apt-get", "-qq", "update"]).returncode != 0:
                raise Problem("apt-get update failed. Check the network and /etc/apt/sources.list.")
            if not self.is_known(wanted):
                raise Problem(
                    f"apt does not know {wanted} even after apt-get update. The data sets need "
                    "the sources of Debian 12."
                )
        command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", wanted]
        if subprocess.run(command, cwd=folder).returncode != 0:
            raise Problem(
                f"could not download {wanted}. Check the network; if the file is gone from the "
                "mirror, run: sudo apt-get update"
            )

    @staticmethod
    def is_known(wanted):
        # apt-cache would also know what is installed and nowhere to be had.
        return environment.succeeds("apt-get", "-qq", "--print-uris", "download", wanted)


@dataclass(frozen=True)
class PyPI:
    """A wheel or source archive of PyPI; pip refuses any other file than that of the hash."""

    name: str
    version: str
    sha256: str

    def __str__(self):
        return f"PyPI {self.name} {self.version}"

    def download(self, folder):
        with tempfile.TemporaryDirectory() as temporary:
            wanted = Path(temporary) / "requirements.txt"
            wanted.write_text(f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n")
            # pip asks a source archive for its metadata, which would run its setup.py. With these
            # options it asks the setuptools that it can import, and no_build has one that answers.
            command = [environment.python(), "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--disable-pip-version-check", "--no-build-isolation", "--use-pep517"]
            command += ["--requirement", wanted, "--dest", folder]
            here = Path(__file__).parent / "no_build"
            changed = os.environ | {"PYTHONPATH": str(here), "PYTHONDONTWRITEBYTECODE": "1"}
            if subprocess.run(command, env=changed).returncode != 0:
                raise Problem(
                    f"could not get {self.name} {self.version} from PyPI, see above. Check the "
                    "network and try again; a file whose hash is another is refused."
                )


@functools.cache
def download(package, folder):
    """The package's file, in a new folder in that folder."""
    own = Path(tempfile.mkdtemp(dir=folder))
    say(f"downloading {package}")
    package.download(own)
    (file,) = own.iterdir()
    return file
