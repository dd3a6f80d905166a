"""Corpora by name: what is a document, and what is said when something is wrong."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import http.server
import json
import lzma
import os
import random
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import corpora, kind_files, kind_stories, parallel_stories, stories
from data.documents import Documents
from data.download import download
from data.errors import UserError
from data.prepare import prepare
from tests.refusals import facts, refusal

ROOT = Path(__file__).resolve().parent.parent

TALES = ["Tim saw a cat.\n\nIt ran.", "Mia said “Hi”.\r\nShe left.", "One <|endoftext|> in a line.", "Zoë 🐈\x00 end"]


def read(name: str, tmp_path: Path) -> Documents:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return corpora.find(name, tmp_path / "cache").read(scratch, False)


def texts(documents: Documents) -> list[str]:
    return [documents.bytes_of(i).decode("utf-8") for i in range(len(documents))]


def as_text(folder: Path) -> str:
    (folder / "a.txt").write_bytes("\n<|endoftext|>\n".join(TALES).encode())
    return f"text:{folder}/a.txt"


def as_jsonl(folder: Path) -> str:
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"id": 1, "story": tale}) for tale in TALES))
    return f"jsonl:{folder}/a.jsonl#story"


def as_parquet(folder: Path) -> str:
    pq.write_table(pa.table({"id": range(len(TALES)), "story": TALES}), folder / "a.parquet")
    return f"parquet:{folder}/a.parquet#story"


def as_directory(folder: Path) -> str:
    (folder / "files").mkdir()
    pq.write_table(pa.table({"id": range(len(TALES)), "story": TALES}), folder / "files" / "a.parquet")
    return f"hf:{folder}/files#story"


def as_saved_dataset(folder: Path) -> str:
    datasets.Dataset.from_dict({"story": TALES}).save_to_disk(str(folder / "saved"))
    return f"hf:{folder}/saved"


@pytest.mark.parametrize("write", [as_text, as_jsonl, as_parquet, as_directory, as_saved_dataset])
def test_every_kind_of_file_gives_the_same_documents(write: Callable[[Path], str], tmp_path: Path) -> None:
    assert texts(read(write(tmp_path), tmp_path)) == TALES


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\nA\n<|endoftext|>\n\nB\nb\n<|endoftext|>\n", ["A", "B\nb"]),  # as in the TinyStories files
        (b"A\r\n<|endoftext|>\r\nB\r\nb", ["A", "B\r\nb"]),
        (b"A\n<|endoftext|>\n \n<|endoftext|>\nB", ["A", "B"]),
        (b"<|endoftext|>\n<|endoftext|>\nA", ["A"]),
        (b"A\n<|endoftext|> \t\nB\n \t<|endoftext|>\r\nC", ["A", "B", "C"]),  # blanks around it
        (b"A\r<|endoftext|>\rB", ["A", "B"]),
        (b"A\n<|endoftext|>\nB <|endoftext|> b\n", ["A", "B <|endoftext|> b"]),  # the lines are the separators
        (b"A<|endoftext|>B\nb<|endoftext|>\nC<|endoftext|>", ["A", "B\nb", "C"]),  # none is alone on a line
        (b"A <|endoftext|>\n<|endoftext|> B\n", ["A <|endoftext|>\n<|endoftext|> B\n"]),  # too few for three splits
        (b"\n A\r\nB\rC\n\n", ["\n A\r\nB\rC\n\n"]),  # one document: every byte of it
        (b"\xef\xbb\xbfA\n", ["A\n"]),
        (b"\xef\xbb\xbf<|endoftext|>\nA\n<|endoftext|>\nB", ["A", "B"]),
    ],
)
def test_documents_stand_between_lines_of_endoftext(content: bytes, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert texts(read(f"text:{tmp_path}/a.txt", tmp_path)) == expected


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (b"A\n<|endoftext|>\nB", None),
        (b"A", None),
        (b"A\n<|endoftext|>\nB <|endoftext|> b\n", "1 <|endoftext|> within lines stay text; "),
        (b"A <|endoftext|>\n<|endoftext|> B\n", "2 <|endoftext|> within lines stay text; "),
        (
            b"A<|endoftext|>B\nb<|endoftext|>\nC<|endoftext|>",
            "divided at 3 <|endoftext|> within lines, as none is alone on a line: 3 documents",
        ),
    ],
)
def test_a_separator_within_a_line_is_counted_and_said(
    content: bytes, remark: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_bytes(content * 3 if content == b"A" else content)
    documents = read(f"text:{tmp_path}/a.txt", tmp_path)
    assert str(documents.facts.get("remark")).startswith(str(remark))
    (tmp_path / "b.txt").write_bytes(b"one<|endoftext|>two<|endoftext|>three<|endoftext|>four")
    dataset = prepare(f"text:{tmp_path}/b.txt", "char", cache=tmp_path / "cache")
    assert "divided at 3 <|endoftext|> within lines" in capfd.readouterr().err
    assert sum(part["documents"] for part in dataset.meta["splits"].values()) == 4


def test_the_tinystories_sample_has_five_stories(sample_data: Path, tmp_path: Path) -> None:
    found = texts(read(f"text:{sample_data}/tinystories/sample_endoftext.txt", tmp_path))
    assert len(found) == 5
    assert all(story[0].isupper() and story == story.strip("\n") for story in found)


BAD_FILES: list[tuple[str, bytes | None, str, tuple[str, ...], int | None]] = [
    ("text:{}/inptu.txt", None, "missing", (), None),
    ("text:{}/nowhere/x.txt", None, "missing", (), None),
    ("text:{}", None, "is_directory", (), None),
    ("text:{}/a", b"", "empty", (), None),
    ("text:{}/a", b" \n\n", "empty", (), None),
    ("text:{}/a", b"<|endoftext|>\n<|endoftext|>\n", "empty", (), None),
    ("text:{}/a", b"ok\nok\nab\xffc", "not_utf8", (), 3),
    ("text:{}/a", b"x\n" * 600_000 + b"\xe2\x82", "not_utf8", (), 600001),
    ("text:{}/a", b"x\n" * 524_287 + b"x\xe2\xff", "not_utf8", (), 524288),  # cut by a chunk
    ("text:{}/a", "Hello".encode("utf-16"), "other_format", (), None),
    ("text:{}/a", "Hello".encode("utf-16-le"), "binary", (), None),
    ("text:{}/a", bytes(100), "binary", (), None),
    ("jsonl:{}/a#t", b'{"t": "a"}\n{"t": 3}\n', "not_text", (), 2),
    ("jsonl:{}/a#t", b'{"t": "a"}\n\n{"t": \n', "not_json", (), 3),
    ("jsonl:{}/a#t", b"[1]\n", "no_object", (), 1),
    ("jsonl:{}/a#t", b'{"t": "\xff"}\n', "not_utf8", (), 1),
    ("jsonl:{}/a#t", b'{"t": "a"}\n' + b'{"t": ' + b"[" * 100_000, "too_deep", (), 2),
    ("jsonl:{}/a#t", b'{"t": "a"}\n' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too_deep", (), 2),
    ("jsonl:{}/a#t", b'{"t": ' + b"1" * 5000 + b"}\n", "not_text", (), 1),
    ("jsonl:{}/a#t", b'{"t": "a\x00b"}\n', "not_json", (), 1),
    ("jsonl:{}/a#t", b'{\n  "t": "a"\n}\n', "not_json", (), 1),
    ("jsonl:{}/a#t", b'[\n{"t": "a"}\n]\n', "not_json", (), 1),
    ("jsonl:{}/a#t", '{"t": "a"}'.encode("utf-16"), "other_format", (), None),
    ("jsonl:{}/a#t", b"", "empty", (), None),
    ("jsonl:{}", None, "is_directory", (), None),
    ("parquet:{}", None, "is_directory", (), None),
    ("text:{}/*.txt", None, "pattern", (), None),
    ("text:{}/*.md", None, "missing", (), None),
    ("text:{}/a", b"%PDF-1.7\n", "other_format", (), None),
    ("jsonl:{}/a#storry", b'{"story": "a"}\n', "unknown", ("storry",), 1),
    ("jsonl:{}/a", b'{"id": "a"}\n', "unknown", ("text",), 1),
    ("jsonl:{}/a#t", b'{"t": ""}\n{"t": null}\n', "empty", (), None),
    (
        "jsonl:{}/a#t",
        rb'{"t": "fine"}' + b"\n" + rb'{"t": "abc\ud83d"}',
        "surrogate",
        (),
        2,
    ),
    ("parquet:{}/a#t", b"not parquet at all", "not_parquet", (), None),
    ("hf:{}/a", b"x", "is_file", (), None),
    ("hf:{}/missing", None, "missing", (), None),
]


def refused(name: str, content: bytes | None, tmp_path: Path) -> UserError:
    """The error for a corpus in a folder with a file `a` of this content, or with an `input.txt`."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / ("input.txt" if content is None else "a")).write_bytes(b"text" if content is None else content)
    return refusal(lambda: read(name.format(folder), tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "kind", "keys", "line"), BAD_FILES, ids=[f"{n}-{entry[2]}" for n, entry in enumerate(BAD_FILES)]
)
def test_a_bad_file_is_refused_with_its_place(
    name: str, content: bytes | None, kind: str, keys: tuple[str, ...], line: int | None, tmp_path: Path
) -> None:
    error = refused(name, content, tmp_path)
    assert facts(error) == (kind, keys, line)
    assert str(error).startswith(f"{name.format(tmp_path / 'files')}: ")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("text:{}/inptu.txt", None, "no such file: {}/inptu.txt; did you mean input.txt?"),
        ("text:{}/nowhere/x.txt", None, "no such file: {}/nowhere/x.txt; looked in {}/nowhere"),
        (
            "text:{}",
            None,
            "{} is a directory; give one file in it (input.txt), or hf:{} for a directory that Hugging Face datasets "
            "can load",
        ),
        ("text:{}/a", b"", "{}/a is empty; give a file with text in it"),
        ("text:{}/a", b" \n\n", "{}/a is blank; give a file with text in it"),
        ("text:{}/a", b"<|endoftext|>\n<|endoftext|>\n", "{}/a has separators and no text between them"),
        (
            "text:{}/a",
            b"x\n" * 524_287 + b"x\xe2\xff",  # cut by a chunk
            "{}/a is not UTF-8 text: byte 1048575 (line 524288) is 0xE2; convert it, for example with iconv -t UTF-8",
        ),
        ("text:{}/a", bytes(9), "{}/a looks binary (or UTF-16): it is full of NUL bytes; give UTF-8 text"),
        ("jsonl:{}/a#t", b'{"t": 3}\n', "line 1: field t holds int, not text"),
        (
            "jsonl:{}/a#t",
            b'\n{"t": \n',
            "line 2 is not JSON: Expecting value, at character 7",
        ),
        (
            "jsonl:{}/a#t",
            b"[1]\n",
            "line 1 is a JSON list, not an object with fields; one object per line is read: jq -c '.[]' {}/a",
        ),
        (
            "jsonl:{}/a#t",
            b'{\n "t": "a"}',
            "line 1 begins JSON that goes on over more lines; one object per line is read: jq -c . {}/a",
        ),
        (
            "text:{}/*.txt",
            None,
            "{}/*.txt is a pattern, for example of {}/input.txt; a corpus is one file: join them, with a line "
            "<|endoftext|> between documents, or give their directory as hf:DIRECTORY",
        ),
        ("jsonl:{}/a#storry", b'{"story": "a"}\n', "line 1 has no field storry; did you mean story?"),
        (
            "jsonl:{}/a#t",
            b'{"t": ""}\n{"t": null}\n',
            "no documents with text in it (2 empty lines); nothing to train on",
        ),
        (
            "jsonl:{}/a#t",
            rb'{"t": "abc\ud83d"}',
            "line 1: lone surrogate U+D83D at character 3 cannot be encoded: repair or remove it (it is half of a "
            "character)",
        ),
        ("hf:{}/a", b"x", "{}/a is a file; use text:, jsonl: or parquet: for files"),
        ("hf:{}/missing", None, "no such directory: {}/missing"),
    ],
)
def test_what_each_refusal_of_a_file_says(name: str, content: bytes | None, problem: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "files")
    assert str(refused(name, content, tmp_path)) == f"{name}: {problem}".replace("{}", folder)


COMPRESSED = {
    "gzip": gzip.compress(b"text"),
    "bzip2": bz2.compress(b"text"),
    "xz": lzma.compress(b"text"),
    "Zstandard": b"\x28\xb5\x2f\xfd\x04\x58text",
    "zip": b"PK\x03\x04text",
}


@pytest.mark.parametrize("format_", COMPRESSED)
@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet"])
def test_a_compressed_file_is_answered_with_what_unpacks_it(kind: str, format_: str, tmp_path: Path) -> None:
    error = refused(f"{kind}:{{}}/a", COMPRESSED[format_], tmp_path)
    assert error.kind == "compressed"
    assert f"is compressed with {format_}; unpack it (" in str(error)


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_a_parquet_file_under_another_kind_is_answered_with_its_own(kind: str, tmp_path: Path) -> None:
    name = as_parquet(tmp_path).replace("parquet:", f"{kind}:")
    error = refusal(lambda: read(name.partition("#")[0], tmp_path))
    assert (error.kind, f"write parquet:{tmp_path}/a.parquet#field" in str(error)) == ("other_format", True)


@pytest.mark.parametrize("what", ["named pipe", "socket", "device", "link", "circle"])
@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet", "hf"])
def test_what_is_no_file_is_refused_at_once(kind: str, what: str, tmp_path: Path) -> None:
    """A named pipe would wait for its writer for ever, a device may never end."""
    path = tmp_path / "a"
    if what == "named pipe":
        os.mkfifo(path)
    elif what == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(tmp_path / ("a" if what == "circle" else "nowhere"))
    error = refusal(lambda: read(f"{kind}:{path}", tmp_path))
    assert error.kind == ("missing" if what in ("link", "circle") else "no_file")
    said = {"link": "which is not there", "circle": "which is not there"} if kind != "hf" else {}
    assert said.get(what, f"is a {what}" if error.kind == "no_file" else "is a broken link") in str(error)


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from data import corpora, file_checks, hub, local_files
from data.errors import UserError
if os.geteuid() == 0:
    os.setuid(65534)
for name in sys.argv[1:]:
    try:
        corpora.find(name, Path("/tmp"))
    except UserError as error:
        print(error.kind)
"""


def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    names = ["text:closed/a.txt", "text:closed", "text:a.txt", "jsonl:closed/missing.jsonl", "hf:./closed/d", "hf:./d"]
    tmp_path.chmod(0o755)
    (tmp_path / "closed").mkdir()
    (tmp_path / "d").mkdir()
    for path in (tmp_path / "closed" / "a.txt", tmp_path / "a.txt", tmp_path / "d" / "a.jsonl"):
        path.write_text("text")
        path.chmod(0)
    (tmp_path / "closed").chmod(0)
    try:
        done = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, *names],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert done.stdout.split() == ["cannot_read"] * len(names)


def test_a_damaged_page_of_a_parquet_file_is_refused_with_its_row(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = ["".join(rng.choices("abcdefgh ", k=200)) for _ in range(5000)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": rows}), path, compression="zstd", row_group_size=1000)
    content = path.read_bytes()
    for n, at in enumerate(range(len(content) // 2, len(content) // 2 + 40_000, 4000)):
        path.write_bytes(content[:at] + bytes(300) + content[at + 300 :])
        error = refusal(lambda: read(f"parquet:{path}", tmp_path))
        assert error.kind == "damaged", n
        assert re.search(r"is damaged after row \d,000: ", str(error))
    for end in (0, 3, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:end])
        assert refusal(lambda: read(f"parquet:{path}", tmp_path)).kind == ("not_parquet" if end else "empty")


def test_a_parquet_column_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    column = pa.array([b"fine", b"ab\xff"]).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert refusal(lambda: read(f"parquet:{tmp_path}/a.parquet", tmp_path)).kind == "damaged"


@pytest.mark.parametrize(
    ("columns", "field", "error_kind", "keys"),
    [
        ({"story": ["a"], "id": [1]}, "#storry", "unknown", ("storry",)),
        ({"story": ["a"], "id": [1]}, "#id", "not_text", ("id",)),
        ({"id": [1]}, "", "unknown", ("text",)),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "hf"])
def test_a_wrong_field_is_named_with_the_nearest(
    kind: str, columns: dict[str, list[object]], field: str, error_kind: str, keys: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "d" / "a.parquet")
    name = f"parquet:{tmp_path}/d/a.parquet{field}" if kind == "parquet" else f"hf:{tmp_path}/d{field}"
    error = refusal(lambda: read(name, tmp_path))
    assert error.kind == error_kind
    if kind == "hf" or error_kind == "unknown":  # Parquet's reader meets a field that is not text in a row
        assert error.keys == keys
    if field == "#storry":
        assert str(error) == f"{name}: no field storry; did you mean story?"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("shakespear", "unknown"),
        ("text:", "missing"),
        ("hf:", "missing"),
        ("stories:2", "form"),
        ("stories:", "form"),
        ("stories:many", "form"),
        ("stories:9999999999", "form"),
        ("stories:" + "9" * 5000, "form"),  # more digits than Python reads
        ("json:a.jsonl", "unknown"),
    ],
)
def test_a_name_that_is_no_corpus_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    assert facts(refusal(lambda: corpora.find(name, tmp_path))) == (kind, (name,), None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shakespear", "corpus shakespear is not known; did you mean shakespeare?"),
        ("json:a.jsonl", "corpus json:a.jsonl is not known; did you mean jsonl?"),
        ("text:", "corpus text: names no file: write text:PATH, for example text:input.txt"),
        ("shakespeare:2", "corpus shakespeare:2: shakespeare takes nothing after it; write shakespeare"),
        (
            "stories:",
            "corpus stories:: nothing is not a number of stories; write stories:N with N from 3 to 1,000,000,000",
        ),
    ],
)
def test_a_name_that_is_no_corpus_is_answered_with_the_nearest(name: str, message: str, tmp_path: Path) -> None:
    assert str(refusal(lambda: corpora.find(name, tmp_path))) == message


def test_a_bare_path_is_answered_with_the_right_spelling(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    error = refusal(lambda: corpora.find(str(tmp_path / "a.txt"), tmp_path))
    assert (error.kind, str(error).partition("; ")[2]) == ("unknown", f"did you mean text:{tmp_path}/a.txt?")


# --- the built-in corpus ---


def test_stories_are_the_generators_whoever_wrote_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_stories, "processors", lambda: 3)
    documents = read("stories:3001", tmp_path)
    assert len(documents) == 3001
    assert documents.floor_nll is not None
    for i in (0, 999, 1000, 2000, 2001, 3000):
        text, nats = stories.generate_with_nll(kind_stories.STORIES_SEED, i)
        assert documents.bytes_of(i).decode() == text
        assert documents.floor_nll[i] == nats


# --- the network ---


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server on loopback over tmp_path/web."""
    (tmp_path / "web").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path / "web"))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_download_is_made_once_and_checked(web: str, tmp_path: Path) -> None:
    (tmp_path / "web" / "f.txt").write_bytes(b"content")
    target = tmp_path / "cache" / "f.txt"
    sha256 = hashlib.sha256(b"content").hexdigest()
    error = refusal(lambda: download(f"{web}/f.txt", "0" * 64, target, "give it"))
    assert error.kind == "changed"
    assert str(error) == (
        f"{web}/f.txt has changed (its sha256 is {sha256[:12]}..., expected 000000000000...): give it"
    )
    assert not target.exists()
    download(f"{web}/f.txt", sha256, target, "give it")
    (tmp_path / "web" / "f.txt").unlink()
    assert download(f"{web}/f.txt", sha256, target, "give it").read_bytes() == b"content"
    assert [file.name for file in target.parent.iterdir()] == ["f.txt"]
    error = refusal(lambda: download(f"{web}/g.txt", sha256, tmp_path / "g.txt", "give it"))
    assert (error.kind, str(error).endswith(": give it")) == ("no_network", True)


def test_shakespeare_without_a_network_names_the_file_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind_files, "SHAKESPEARE_URL", "http://127.0.0.1:9/input.txt")
    error = refusal(lambda: read("shakespeare", tmp_path))
    assert (error.kind, str(error).endswith("text:input.txt")) == ("no_network", True)


def test_the_sample_shakespeare_is_the_file_we_download(sample_data: Path) -> None:
    content = (sample_data / "shakespeare" / "input.txt").read_bytes()
    assert hashlib.sha256(content).hexdigest() == kind_files.SHAKESPEARE_SHA256
