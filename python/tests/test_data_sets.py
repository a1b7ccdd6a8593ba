"""The command scripts/data and how it gets packages, on some that are made here; no network."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from data_packages import SCRIPTS, damaged, tar, zipped
from data_sets import archives, environment, store
from data_sets.__main__ import main
from data_sets.errors import Problem
from data_sets.packages import PyPI, download
from data_sets.sets import SETS, DataSet


@dataclass(frozen=True)
class Local:
    file: Path

    def download(self, folder):
        if not self.file.exists():
            raise Problem(f"there is no {self.file.name}. Make it.")
        shutil.copy(self.file, folder)


def text_set(wheel):
    def make(path):
        return archives.read(path, r".*\.txt"), ["texts: 2"]

    return DataSet("two texts", 1, "MIT", (Local(wheel),), make)


TEXTS = {"part/one.txt": b"one\n" * 1000, "two.txt": b"two"}


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Two sets of the same texts, `a` and `b`, whose sums are known, and a folder for them."""
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(
        "".join(
            f"{hashlib.sha256(content).hexdigest()}  {name}/{file}\n"
            for name in ("a", "b")
            for file, content in TEXTS.items()
        )
    )
    monkeypatch.setattr(store, "SUMS", sums)
    sets = {name: text_set(zipped(tmp_path / f"{name}.whl", TEXTS)) for name in ("a", "b")}
    return sets, tmp_path / "data"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_set_is_made_once_with_its_source(shop, capfd):
    sets, data = shop
    assert main(["a"], sets, data) == 0
    assert names_in(data) == ["a"]
    assert (data / "a/part/one.txt").read_bytes() == TEXTS["part/one.txt"]
    source = (data / "a/SOURCE").read_text().splitlines()
    assert source[:2] == ["two texts", "licence: MIT"]
    assert source[2].endswith(": a.whl")
    assert source[3] == "texts: 2"
    assert source[4:] == [
        f"bytes {len(TEXTS[name])} {name}" for name in ("part/one.txt", "two.txt")
    ]
    assert "data/a is ready; licence: MIT" in capfd.readouterr().out

    Path(sets["a"].packages[0].file).unlink()
    assert main(["a"], sets, data) == 0
    assert capfd.readouterr().out == f"[data] {data}/a is there\n"


def test_what_is_damaged_in_data_is_made_anew(shop):
    sets, data = shop
    assert main([], sets, data) == 0
    (data / "b/two.txt").write_bytes(b"tow")
    (data / "b/more").touch()
    assert main([], sets, data) == 0
    assert (data / "b/two.txt").read_bytes() == b"two"
    assert names_in(data) == ["a", "b"]
    assert names_in(data / "b") == ["SOURCE", "part", "two.txt"]


def changed(path):
    zipped(path, TEXTS | {"two.txt": b"tow"})


def with_less(path):
    zipped(path, {"part/one.txt": TEXTS["part/one.txt"]})


def with_more(path):
    zipped(path, TEXTS | {"three.txt": b""})


@pytest.mark.parametrize(
    "harm, told",
    [
        (damaged, "a.whl cannot be read: File is not a zip file. The download was damaged"),
        (changed, f"{hashlib.sha256(b'tow').hexdigest()}  a/two.txt"),
        (with_less, "missing  a/two.txt"),
        (with_more, f"{hashlib.sha256(b'').hexdigest()}  a/three.txt"),
        (Path.unlink, "there is no a.whl. Make it."),
        (lambda path: zipped(path, {"one.md": b""}), "a.whl has no file .*\\.txt."),
    ],
)
def test_a_download_that_is_damaged_is_refused_and_others_are_made(shop, capfd, harm, told):
    sets, data = shop
    harm(sets["a"].packages[0].file)
    assert main([], sets, data) == 1
    assert names_in(data) == ["b"]
    errors = capfd.readouterr().err
    assert errors.startswith("[data] ")
    assert told in errors
    last = "[data] not made: a. What is wrong stands above; then run: scripts/data a\n"
    assert errors.endswith(last)


def test_names_that_are_unknown(capfd):
    script = subprocess.run(
        [SCRIPTS / "data", "movielens", "films"], capture_output=True, text=True, cwd="/"
    )
    assert script.returncode == 2
    assert script.stdout == ""
    assert script.stderr == (
        f"[data] there is no data set 'films'. Known are {', '.join(SETS)}; "
        "--list tells what they are.\n"
    )
    assert main(["--lists"]) == 2


def test_list_tells_size_licence_and_source():
    script = subprocess.run([SCRIPTS / "data", "--list"], capture_output=True, text=True)
    assert script.returncode == 0
    for name, s in SETS.items():
        assert f"{name:14} {s.megabytes:3} MB  {s.what}\n" in script.stdout
        assert f"licence: {s.licence}\n" in script.stdout
    assert "source: PyPI recbole 1.2.1\n" in script.stdout


def test_every_set_has_sums_and_every_sum_a_set():
    sets = {line.split()[1].split("/")[0] for line in store.SUMS.read_text().splitlines()}
    assert sets == set(SETS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing_or_what_the_next_removes(shop, number):
    sets, data = shop
    program = (
        "import runpy, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it\n"
        "from data_sets import packages\n"
        "packages.Debian.download = lambda self, folder: (print('at work'), time.sleep(60))\n"
        "sys.argv = ['data', 'fashion-mnist']\n"
        "runpy.run_module('data_sets', run_name='__main__')\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=data.parent,
        env=os.environ | {"PYTHONPATH": str(SCRIPTS), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
    )
    while run.stdout.readline() != b"at work\n":
        assert run.poll() is None
    assert len(names_in(data)) == 1
    run.send_signal(number)
    run.wait()
    run.stdout.close()
    if number == signal.SIGKILL:
        assert len(names_in(data)) == 1
        assert main(["a"], sets, data) == 0
        assert names_in(data) == ["a"]
    else:
        assert run.returncode == 128 + number
        assert names_in(data) == []


# Packages.


def source_archive(folder):
    """A source archive whose setup.py leaves a file, and its SHA-256."""
    ran = folder / "ran"
    archive = tar(
        folder / "greeting-1.0.tar.gz",
        {
            "greeting-1.0/PKG-INFO": b"Metadata-Version: 1.0\nName: greeting\nVersion: 1.0\n",
            "greeting-1.0/setup.py": f"open({str(ran)!r}, 'w')\n".encode(),
            "greeting-1.0/hello.txt": b"hello",
        },
    )
    return archive, hashlib.sha256(archive.read_bytes()).hexdigest(), ran


@pytest.fixture
def here_is_pypi(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "python", lambda: sys.executable)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    target = tmp_path / "target"
    target.mkdir()
    return target


def test_no_code_of_a_source_archive_runs(tmp_path, here_is_pypi):
    archive, sha256, ran = source_archive(tmp_path)
    got = download(PyPI("greeting", "1.0", sha256), here_is_pypi)
    assert got.read_bytes() == archive.read_bytes()
    assert archives.read_one(got, r".*/hello\.txt") == b"hello"
    assert not ran.exists()


def test_a_file_of_another_hash_is_refused(tmp_path, here_is_pypi, capfd):
    _, sha256, ran = source_archive(tmp_path)
    with pytest.raises(Problem, match="could not get greeting 1.0 from PyPI, see above. Check"):
        download(PyPI("greeting", "1.0", sha256[::-1]), here_is_pypi)
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().err
    assert not ran.exists()


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is missing")
def test_files_of_a_debian_package(tmp_path):
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@m>\nDescription: d\n"
    )
    (tree / "usr").mkdir()
    (tree / "usr/text").write_text("text")
    (tree / "usr/link").symlink_to("text")
    package = tmp_path / "p.deb"
    subprocess.run(["dpkg-deb", "--build", tree, package], check=True, stdout=subprocess.DEVNULL)
    assert archives.read(package, r"usr/.*") == {"usr/text": b"text"}
    damaged(package)
    with pytest.raises(Problem, match="p.deb cannot be read: .* try again"):
        archives.read(package, r"usr/.*")
