"""Corpora by name: what is a document, and what is said when something is wrong."""

from __future__ import annotations

import hashlib
import http.server
import json
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
        (b"A <|endoftext|>\n<|endoftext|> B\n", ["A <|endoftext|>\n<|endoftext|> B\n"]),
        (b"\n A\r\nB\rC\n\n", ["\n A\r\nB\rC\n\n"]),  # one document: every byte of it
        (b"\xef\xbb\xbfA\n", ["A\n"]),
        (b"\xef\xbb\xbf<|endoftext|>\nA\n<|endoftext|>\nB", ["A", "B"]),
    ],
)
def test_documents_stand_between_lines_of_endoftext(content: bytes, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert texts(read(f"text:{tmp_path}/a.txt", tmp_path)) == expected


def test_the_tinystories_sample_has_five_stories(sample_data: Path, tmp_path: Path) -> None:
    found = texts(read(f"text:{sample_data}/tinystories/sample_endoftext.txt", tmp_path))
    assert len(found) == 5
    assert all(story[0].isupper() and story == story.strip("\n") for story in found)


BAD_FILES: list[tuple[str, bytes | None, str]] = [
    ("text:{}/inptu.txt", None, r"no such file: .*inptu.txt; did you mean input.txt\?$"),
    ("text:{}/nowhere/x.txt", None, r"no such file: .*; looked in .*nowhere$"),
    ("text:{}", None, r"is a directory; give one file in it \(input.txt\), or hf:"),
    ("text:{}/a", b"", "is empty"),
    ("text:{}/a", b" \n\n", "is blank"),
    ("text:{}/a", b"<|endoftext|>\n<|endoftext|>\n", "separators and no text"),
    ("text:{}/a", b"ok\nok\nab\xffc", r"not UTF-8 text: byte 8 \(line 3\) is 0xFF"),
    ("text:{}/a", b"x\n" * 600_000 + b"\xe2\x82", r"byte 1200000 \(line 600001\) is 0xE2"),
    ("text:{}/a", b"x\n" * 524_287 + b"x\xe2\xff", r"byte 1048575 \(line 524288\) is 0xE2"),  # cut by a chunk
    ("text:{}/a", "Hello".encode("utf-16"), "not UTF-8 text: byte 0|full of NUL"),
    ("text:{}/a", "Hello".encode("utf-16-le"), "full of NUL bytes"),
    ("text:{}/a", bytes(100), "full of NUL bytes"),
    ("jsonl:{}/a#t", b'{"t": "a"}\n{"t": 3}\n', "line 2: field t holds int, not text"),
    ("jsonl:{}/a#t", b'{"t": "a"}\n\n{"t": \n', "line 3 is not JSON"),
    ("jsonl:{}/a#t", b"[1]\n", "line 1 is a JSON list, not an object"),
    ("jsonl:{}/a#t", b'{"t": "\xff"}\n', "line 1 is not JSON in UTF-8"),
    ("jsonl:{}/a#storry", b'{"story": "a"}\n', r"line 1 has no field storry; did you mean story\?"),
    ("jsonl:{}/a", b'{"id": "a"}\n', "no field text; allowed: id"),
    ("jsonl:{}/a#t", b'{"t": ""}\n{"t": null}\n', "no documents with text in it"),
    (
        "jsonl:{}/a#t",
        rb'{"t": "fine"}' + b"\n" + rb'{"t": "abc\ud83d"}',
        r"line 2: lone surrogate U\+D83D at character 3",
    ),
    ("parquet:{}/a#t", b"not parquet at all", "is not a Parquet file"),
    ("hf:{}/a", b"x", "is a file; use text:, jsonl: or parquet:"),
    ("hf:{}/missing", None, "no such directory"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES, ids=[entry[2][:30] for entry in BAD_FILES])
def test_a_bad_file_is_one_line_with_its_place(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / ("input.txt" if content is None else "a")).write_bytes(b"text" if content is None else content)
    with pytest.raises(UserError, match=message) as caught:
        read(name.format(folder), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "field", "message"),
    [
        ({"story": ["a"], "id": [1]}, "#storry", r"no field storry; did you mean story\?"),
        ({"story": ["a"], "id": [1]}, "#id", "not text"),
        ({"id": [1]}, "", "no field text"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "hf"])
def test_a_wrong_field_is_named_with_the_nearest(
    kind: str, columns: dict[str, list[object]], field: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "d" / "a.parquet")
    with pytest.raises(UserError, match=message):
        read(f"parquet:{tmp_path}/d/a.parquet{field}" if kind == "parquet" else f"hf:{tmp_path}/d{field}", tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shakespear", r"did you mean shakespeare\?"),
        ("text:", "names no file"),
        ("hf:", "names no dataset"),
        ("stories:2", "N >= 3"),
        ("stories:", "nothing is not a number"),
        ("stories:many", "many is not a number"),
        ("json:a.jsonl", r"did you mean jsonl\?"),
    ],
)
def test_an_unknown_corpus_is_answered_with_the_nearest(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        corpora.find(name, tmp_path)


def test_a_bare_path_is_answered_with_the_right_spelling(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match=r"did you mean text:.*a\.txt\?"):
        corpora.find(str(tmp_path / "a.txt"), tmp_path)


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
    with pytest.raises(UserError, match=r"has changed .*expected 000000000000\.\.\.\): give it"):
        download(f"{web}/f.txt", "0" * 64, target, "give it")
    assert not target.exists()
    download(f"{web}/f.txt", sha256, target, "give it")
    (tmp_path / "web" / "f.txt").unlink()
    assert download(f"{web}/f.txt", sha256, target, "give it").read_bytes() == b"content"
    assert [file.name for file in target.parent.iterdir()] == ["f.txt"]
    with pytest.raises(UserError, match=r"cannot download .*: give it"):
        download(f"{web}/g.txt", sha256, tmp_path / "g.txt", "give it")


def test_shakespeare_without_a_network_names_the_file_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind_files, "SHAKESPEARE_URL", "http://127.0.0.1:9/input.txt")
    with pytest.raises(UserError, match=r"Connection refused.*text:input\.txt$"):
        read("shakespeare", tmp_path)


def test_the_sample_shakespeare_is_the_file_we_download(sample_data: Path) -> None:
    content = (sample_data / "shakespeare" / "input.txt").read_bytes()
    assert hashlib.sha256(content).hexdigest() == kind_files.SHAKESPEARE_SHA256
