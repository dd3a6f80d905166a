"""Corpora from the Hugging Face hub: the real client against a small hub on loopback, and against no hub at all."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.waiting import CEILING

READ_FROM_HUB = """
import sys, time
from pathlib import Path
import datasets, huggingface_hub
from data import corpora
from data.errors import UserError
from data.splits import divide
longest = 0.0
for name in sys.argv[2:]:
    begun = time.monotonic()
    scratch = Path(sys.argv[1]) / name.replace("/", "-")
    scratch.mkdir()
    try:
        documents = corpora.find(name, scratch).read(scratch, False)
        parts = divide(documents, "documents", name)
        print(name, *map(len, parts.values()), documents.facts["revision"][:4], documents.bytes_of(0).decode(), sep="|")
    except UserError as error:
        print(error)
    longest = max(longest, time.monotonic() - begun)
print(longest)
"""


def read_from_hub(endpoint: str, folder: Path, *names: str) -> list[str]:
    """In a process of its own: Hugging Face's libraries read their environment when they are imported."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf")}
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", READ_FROM_HUB, str(folder), *names]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=CEILING, check=True)
    return result.stdout.splitlines()


TITLES = [f" title {i} " for i in range(100_500)]
HUB_TABLES: dict[str, dict[str, list[str]]] = {
    "roneneldan/TinyStories/data/train-0.parquet": {"text": [f"story {i}" for i in range(30)]},
    "roneneldan/TinyStories/data/validation-0.parquet": {"text": [f"val story {i}" for i in range(10)]},
    "karpathy/tinystories-gpt4-clean/data/train-0.parquet": {"text": [f"clean {i}" for i in range(20_500)]},
    "julien040/hacker-news-posts/data/train-0.parquet": {"title": TITLES},
}
REVISION = "ab" * 20


class HubHandler(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as `datasets` needs to load Parquet files."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[0] == "api":
            repo, rest = "/".join(parts[2:4]) + "/", parts[4:]
            files = {name.removeprefix(repo): body for name, body in self.files.items() if name.startswith(repo)}
            if not files:
                self.answer(b"{}", 401, X_Error_Code="RepoNotFound")
            elif not rest or rest[0] == "revision":
                siblings = [{"rfilename": name} for name in files]
                self.answer(json.dumps({"id": repo[:-1], "sha": REVISION, "siblings": siblings}).encode())
            else:  # tree/REVISION[/data]
                entries = [
                    {"type": "file", "path": name, "size": len(body), "oid": "0"} for name, body in files.items()
                ]
                folder = {"type": "directory", "path": "data", "oid": "0", "size": 0}
                self.answer(json.dumps(entries if rest[2:] else [folder]).encode())
        else:  # datasets/ORG/NAME/resolve/REVISION/PATH
            body = self.files.get("/".join([*parts[1:3], *parts[5:]]))
            if body is None:
                self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=REVISION)
            else:
                self.answer(body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=REVISION)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def fake_hub() -> Iterator[str]:
    def parquet(columns: dict[str, list[str]]) -> bytes:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink)
        return bytes(sink.getvalue().to_pybytes())

    handler = type("Handler", (HubHandler,), {"files": {name: parquet(table) for name, table in HUB_TABLES.items()}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_without_a_network_the_hub_is_given_up_at_once(tmp_path: Path) -> None:
    lines = read_from_hub("http://127.0.0.1:9", tmp_path / "a", "tinystories", "hf:some/thing", "hackernews")
    assert float(lines[-1]) < 15  # seconds without those of the imports; load_dataset alone tries for 23 s each
    assert "cannot be reached" in lines[0]
    assert lines[0].endswith("text:TinyStories-train.txt")
    assert lines[1].endswith("parquet:PATH#field")
    assert lines[2].endswith("parquet:PATH#title")


@pytest.mark.slow
def test_the_hubs_corpora_follow_their_recipes(fake_hub: str, tmp_path: Path) -> None:
    names = ["tinystories", "tinystories-clean", "hackernews", "hf:julien040/hacker-news-posts#titel", "hf:no/body"]
    lines = read_from_hub(fake_hub, tmp_path / "a", *names)
    assert lines[0] == "tinystories|30|5|5|abab|story 0"
    assert lines[1] == "tinystories-clean|500|10000|10000|abab|clean 0"
    mainrun = datasets.Dataset.from_dict({"title": TITLES}).shuffle(seed=1337).take(100_000)
    assert lines[2] == f"hackernews|90000|5000|5000|abab|{mainrun[0]['title'].strip()}"
    assert lines[3].endswith("did you mean title?")
    assert "no such dataset on the hub" in lines[4]
