"""Prepared corpora: nothing of the text is lost, the work is done once, and nothing half-written stays."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data import checksums, encode, local_files, stories
from data.dataset import Dataset, Split
from data.documents import Documents
from data.errors import UserError
from data.kind_stories import STORIES_SEED
from data.prepare import default_cache, load_test, open_dataset, prepare, token_dtype
from data.tokenizers import Tokenizer, load
from tests.refusals import facts, refusal
from tests.waiting import CEILING

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [f"Story {i} said “hello”.\r\nThe <|endoftext|> end{'!' * i}\x00" for i in range(40)]


def write(folder: Path, documents: list[str], name: str = "a.txt") -> str:
    (folder / name).write_bytes("\n<|endoftext|>\n".join(documents).encode())
    return f"text:{folder}/{name}"


def decoded(split: Split, tokenizer: Tokenizer) -> list[str]:
    """The documents of a split; checks that its layout is what data.dataset.Split says."""
    assert split.doc_starts[0] == 1
    assert split.doc_starts[-1] == len(split.tokens)
    if tokenizer.eot is None:
        return [tokenizer.decode(split.tokens)]
    assert split.tokens[0] == tokenizer.eot
    assert (split.tokens[split.doc_starts[1:] - 1] == tokenizer.eot).all()
    pairs = zip(split.doc_starts[:-1], split.doc_starts[1:], strict=True)
    return [tokenizer.decode(split.tokens[start : stop - 1]) for start, stop in pairs]


def all_splits(dataset: Dataset) -> dict[str, Split]:
    return {"train": dataset.train, "val": dataset.val, "test": load_test(dataset.path)}


@pytest.mark.parametrize("tokenizer", ["char", "bpe:280"])
def test_the_documents_come_back_from_the_splits(
    tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "CHUNK", 300)  # several tasks
    dataset = prepare(write(tmp_path, DOCUMENTS), tokenizer, cache=tmp_path / "cache")
    found = {split: decoded(part, load(dataset.path)) for split, part in all_splits(dataset).items()}
    assert sorted(text for texts in found.values() for text in texts) == sorted(DOCUMENTS)
    assert {split: len(part) for split, part in found.items()} == {"train": 36, "val": 2, "test": 2}
    for split, texts in found.items():
        assert texts == [document for document in DOCUMENTS if document in texts]  # in the order of the corpus
        n_tokens = len(all_splits(dataset)[split].tokens)
        n_bytes = sum(len(text.encode()) for text in texts)
        assert dataset.meta["splits"][split] == {"documents": len(texts), "bytes": n_bytes, "tokens": n_tokens}
        assert dataset.token_bytes[all_splits(dataset)[split].tokens].sum() == n_bytes


@pytest.mark.parametrize("tokenizer", ["char", "bpe:280"])
@pytest.mark.parametrize("rule", ["documents", "nanogpt"])
def test_one_document_comes_back_in_contiguous_splits(
    tokenizer: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "CHUNK", 300)
    text = "\n".join(DOCUMENTS).replace("<|endoftext|>", "<|end|>") + "\r\n\n"
    dataset = prepare(write(tmp_path, [text]), tokenizer, rule, cache=tmp_path / "cache")
    kept = load(dataset.path)
    parts = [kept.decode(split.tokens) for split in (dataset.train, dataset.val)]
    parts += [kept.decode(load_test(dataset.path).tokens)] if rule == "documents" else []
    assert "".join(parts) == text
    assert len(parts[0]) == int(0.9 * len(text))
    assert dataset.train.doc_starts.tolist() == [1, len(dataset.train.tokens)]
    assert dataset.train.n_docs == 1


def test_nanogpts_split_of_shakespeare_is_exact(sample_data: Path, tmp_path: Path) -> None:
    corpus = f"text:{sample_data}/shakespeare/input.txt"
    dataset = prepare(corpus, "char", "nanogpt", cache=tmp_path)
    text = (sample_data / "shakespeare" / "input.txt").read_text()
    ids = {character: i for i, character in enumerate(sorted(set(text)))}  # nanoGPT's data/shakespeare_char/prepare.py
    assert (len(dataset.train.tokens), len(dataset.val.tokens), dataset.n_classes) == (1_003_854, 111_540, 65)
    assert dataset.eot is None
    assert dataset.val.tokens.tolist() == [ids[character] for character in text[int(len(text) * 0.9) :]]
    assert refusal(lambda: load_test(dataset.path)).kind == "no_test_split"
    gpt2 = prepare(corpus, f"gpt2:{sample_data}/gpt2/gpt2.tiktoken", "nanogpt", cache=tmp_path)
    assert (len(gpt2.train.tokens), len(gpt2.val.tokens)) == (301_966, 36_059)  # nanoGPT's data/shakespeare/readme.md


def test_stories_carry_their_exact_floor(tmp_path: Path) -> None:
    dataset = prepare("stories:300", "bpe:300", cache=tmp_path)
    kept = load(dataset.path)
    for name, split in all_splits(dataset).items():
        assert split.floor_nll is not None
        texts = decoded(split, kept)
        assert split.floor_nll == pytest.approx([stories.nll(text) for text in texts])
        assert dataset.meta["splits"][name]["floor_nats"] == pytest.approx(split.floor_nll.sum())
    assert decoded(dataset.train, kept)[0] in {stories.generate(STORIES_SEED, i) for i in range(300)}


@pytest.mark.parametrize(
    ("n_classes", "dtype"), [(2, "<u2"), (65536, "<u2"), (65537, "<u4"), (1 << 32, "<u4"), ((1 << 32) + 1, None)]
)
def test_tokens_are_as_narrow_as_the_vocabulary_allows(n_classes: int, dtype: str | None) -> None:
    if dtype:
        assert token_dtype(n_classes) == np.dtype(dtype)
        assert np.iinfo(token_dtype(n_classes)).max >= n_classes - 1
    else:
        with pytest.raises(UserError, match="4,294,967,297 classes does not fit a 32-bit token"):
            token_dtype(n_classes)


def test_a_vocabulary_beyond_16_bits_is_kept(tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x20000, 0x20000 + 65_537)))
    dataset = prepare(write(tmp_path, [text]), "char", cache=tmp_path / "cache")
    assert dataset.train.tokens.dtype == np.uint32
    assert load_test(dataset.path).tokens[-1] == 65_536


def test_arrays_are_mapped_and_cannot_be_written(tmp_path: Path) -> None:
    dataset = prepare(write(tmp_path, DOCUMENTS), "char", cache=tmp_path / "cache")
    assert isinstance(dataset.train.tokens.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        dataset.train.tokens[0] = 0


def test_the_hash_depends_on_content_and_tokenizer_only(tmp_path: Path) -> None:
    def content_hash(documents: list[str], tokenizer: str, place: str) -> str:
        (tmp_path / place).mkdir(exist_ok=True)
        return prepare(write(tmp_path / place, documents), tokenizer, cache=tmp_path / f"cache-{place}").hash

    first = content_hash(DOCUMENTS, "bpe:280", "here")
    assert content_hash(DOCUMENTS, "bpe:280", "there") == first
    jsonl = tmp_path / "c.jsonl"
    jsonl.write_text("\n".join(json.dumps({"text": document}) for document in DOCUMENTS))
    assert prepare(f"jsonl:{jsonl}", "bpe:280", cache=tmp_path / "cache").hash == first
    others = [content_hash(DOCUMENTS, "bpe:281", "here"), content_hash(DOCUMENTS, "char", "here")]
    changed = [DOCUMENTS[0].replace("S", "T"), *DOCUMENTS[1:]]
    assert len({first, *others, content_hash(changed, "bpe:280", "here")}) == 4


def made_at(dataset: Dataset) -> int:
    return (dataset.path / "meta.json").stat().st_mtime_ns


def test_the_same_text_is_prepared_once_and_a_changed_file_anew(tmp_path: Path) -> None:
    corpus = write(tmp_path, DOCUMENTS)
    first = prepare(corpus, "char", cache=tmp_path / "cache")
    again = prepare(corpus, "char", cache=tmp_path / "cache")
    assert (again.path, made_at(again), again.hash) == (first.path, made_at(first), first.hash)
    times = (tmp_path / "a.txt").stat().st_atime_ns, (tmp_path / "a.txt").stat().st_mtime_ns
    write(tmp_path, [DOCUMENTS[0].replace("S", "T"), *DOCUMENTS[1:]])
    os.utime(tmp_path / "a.txt", ns=times)  # same name, size and time
    changed = prepare(corpus, "char", cache=tmp_path / "cache")
    assert changed.path != first.path
    assert changed.hash != first.hash


def test_the_test_split_is_not_opened_by_a_search(tmp_path: Path) -> None:
    dataset = prepare(write(tmp_path, DOCUMENTS), "char", cache=tmp_path / "cache")
    shutil.rmtree(dataset.path / "test")
    assert open_dataset(dataset.path).hash == dataset.hash
    assert refusal(lambda: load_test(dataset.path)).kind == "damaged"


def test_what_is_not_a_prepared_corpus_is_refused(tmp_path: Path) -> None:
    error = refusal(lambda: open_dataset(tmp_path))
    assert error.kind == "unprepared"
    assert str(error) == f"{tmp_path} is not a prepared corpus (it has no meta.json); prepare it first"


PREPARE = """
import sys
from pathlib import Path
from data.prepare import prepare
dataset = prepare(sys.argv[1], "bpe:300", cache=Path(sys.argv[2]))
print(dataset.hash, (dataset.path / "meta.json").stat().st_ino)
"""


def start_preparing(corpus: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREPARE, corpus, str(cache)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_prepare_a_corpus_once(tmp_path: Path) -> None:
    children = [start_preparing("stories:3000", tmp_path) for _ in range(2)]
    results = [child.communicate(timeout=CEILING) for child in children]
    assert [child.returncode for child in children] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert sorted(entry.name.partition("-")[0] for entry in tmp_path.iterdir()) == ["locks", "stories"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    corpus = write(tmp_path, DOCUMENTS)
    folder = prepare(corpus, "char", cache=cache).path
    (cache / f"{folder.name}.tmp").mkdir()
    folder.rename(cache / f"{folder.name}.tmp" / "dataset")
    dataset = prepare(corpus, "char", cache=cache)
    assert dataset.train.n_docs == 36
    assert sorted(entry.name for entry in cache.iterdir()) == sorted(["locks", folder.name])


# --- a cache is never a reason to fail ---


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    """One bit of the last number or letter."""
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def replace_by_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [cut, empty, flip, Path.unlink, replace_by_a_folder])
def test_a_damaged_cache_is_made_anew_and_said_once(
    damage: Callable[[Path], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus, cache = write(tmp_path, ["A.", "B.", "C.", "D."]), tmp_path / "cache"
    whole = prepare(corpus, "char", cache=cache)
    names = [file.relative_to(whole.path).as_posix() for file in whole.path.rglob("*") if file.is_file()]
    assert len(names) == 10
    for name in names:
        before = made_at(whole)
        damage(whole.path / name)
        again = prepare(corpus, "char", cache=cache)
        assert all_splits(again).keys() == all_splits(whole).keys()
        assert (again.path, again.hash, again.meta) == (whole.path, whole.hash, whole.meta)
        said = capfd.readouterr().err
        if made_at(again) != before:
            assert said.startswith(f"note: {whole.path} is damaged (")
            assert said.count("\n") == 1
            assert name in said
        else:  # the content of the others is known to be whole without it
            assert (name, said) == (checksums.FILE, "")
        prepare(corpus, "char", cache=cache)
        assert capfd.readouterr().err == ""
    assert sorted(entry.name for entry in cache.iterdir()) == sorted(["locks", whole.path.name])


def test_a_damaged_floor_is_noticed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = prepare("stories:50", "char", cache=tmp_path)
    for file in (whole.path / "val" / "floor_nll.npy", whole.path / "test" / "floor_nll.npy"):
        flip(file)
        again = prepare("stories:50", "char", cache=tmp_path)
        assert file.name in capfd.readouterr().err
        assert again.val.floor_nll is not None
        assert again.val.floor_nll.sum() == pytest.approx(whole.meta["splits"]["val"]["floor_nats"])


def test_a_copied_cache_is_whole_and_is_hashed_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corpus = write(tmp_path, ["A.", "B.", "C.", "D."])
    first = prepare(corpus, "char", cache=tmp_path / "cache")
    copy = tmp_path / "other" / first.path.name
    shutil.copytree(first.path, copy, copy_function=shutil.copyfile)  # with other times
    before = (copy / checksums.FILE).read_text()
    assert prepare(corpus, "char", cache=tmp_path / "other").path == copy
    after = json.loads((copy / checksums.FILE).read_text())
    assert {name: (copy / name).stat().st_mtime_ns for name in after} == {
        name: known["mtime_ns"] for name, known in after.items()
    }
    assert json.loads(before).keys() == after.keys()
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "other" / "locks").exists()


@pytest.mark.parametrize("name", ["", "train/tokens.npy", "test/doc_starts.npy", "token_bytes.npy", "meta.json"])
def test_a_cache_of_a_release_without_checksums_is_read_whole_once(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus = write(tmp_path, ["A.", "B.", "C.", "D."])
    dataset = prepare(corpus, "char", cache=tmp_path / "cache")
    (dataset.path / checksums.FILE).unlink()
    if name:
        cut(dataset.path / name)
    before = made_at(dataset)
    again = prepare(corpus, "char", cache=tmp_path / "cache")
    assert (made_at(again) == before) is (capfd.readouterr().err == "") is (not name)
    assert (again.hash, (dataset.path / checksums.FILE).exists()) == (dataset.hash, True)


def test_two_processes_repair_a_damaged_cache_once(tmp_path: Path) -> None:
    folder = prepare("stories:600", "bpe:300", cache=tmp_path).path
    cut(folder / "train" / "tokens.npy")
    children = [start_preparing("stories:600", tmp_path) for _ in range(2)]
    results = [child.communicate(timeout=CEILING) for child in children]
    assert [child.returncode for child in children] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert sorted(error.count("is damaged") for _, error in results) == [0, 1]


READ_ONLY = """
import sys
from pathlib import Path
from data.errors import UserError
from data.prepare import prepare
for corpus in sys.argv[2:]:
    try:
        print(prepare(corpus, "char", cache=Path(sys.argv[1])).hash)
    except UserError as error:
        print(error)
"""


def test_a_cache_that_is_only_read_serves_what_is_whole(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    whole = prepare(write(tmp_path, ["A.", "B.", "C.", "D."]), "char", cache=cache)
    damaged = prepare(write(tmp_path, ["A.", "B.", "C.", "E."], "b.txt"), "char", cache=cache)
    os.utime(whole.path / "meta.json")  # hashed, and its new time cannot be recorded
    cut(damaged.path / "meta.json")
    mount = f"mount --bind {cache} {cache} && mount -o remount,ro,bind {cache}"
    probe = subprocess.run([*ON_A_SMALL_DISK, mount], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"needs to mount a folder read-only: {probe.stderr.strip()}")
    names = [f"text:{tmp_path}/a.txt", f"text:{tmp_path}/b.txt"]
    command = [sys.executable, "-c", READ_ONLY, str(cache), *names]
    run = [*ON_A_SMALL_DISK, f'{mount} && exec "$@"', "sh", *command]
    result = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert lines[0] == whole.hash
    assert lines[1].startswith(f"cannot write to the cache {cache} (Read-only file system): ")


@pytest.mark.parametrize("stem", ["a" * 200, "字" * 80, "-", ".hidden", "a b#c%d&'\"?"])
def test_a_corpus_may_have_any_name_that_a_file_can(stem: str, tmp_path: Path) -> None:
    dataset = prepare(write(tmp_path, ["A.", "B.", "C."], f"{stem}.txt"), "char", cache=tmp_path / "cache")
    assert load_test(dataset.path).n_docs == 1


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write(tmp_path, ["A.", "B.", "C."])
    read = local_files.read_text

    def read_and_grow(name: str, path: Path) -> Documents:
        documents = read(name, path)
        with path.open("a") as file:
            file.write("more")
        return documents

    monkeypatch.setattr(local_files, "read_text", read_and_grow)
    error = refusal(lambda: prepare(corpus, "char", cache=tmp_path / "cache"))
    assert error.kind == "changed"
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["locks"]
    monkeypatch.undo()
    os.utime(tmp_path / "a.txt")  # another time with the same content is no other content
    assert prepare(corpus, "char", cache=tmp_path / "cache").train.n_docs == 1


@pytest.mark.parametrize(
    ("documents", "tokenizer", "rule", "kind", "keys"),
    [
        (DOCUMENTS, "bpe:5000", "documents", "too_short", ("bpe:5000",)),
        (DOCUMENTS, "char", "nanogpt", "many_documents", ()),
        (DOCUMENTS, "char", "nanogtp", "unknown", ("nanogtp",)),
        (DOCUMENTS, "chr", "documents", "unknown", ("chr",)),
        (DOCUMENTS, "gpt2:/no/such/file", "documents", "cannot_read", ()),
        (["ab" * 20], "bpe:258", "documents", "too_short", ("val",)),
        (["tiny"], "char", "documents", "too_short", ("val",)),
        (["a", "b"], "char", "documents", "too_few", ()),
    ],
)
def test_bad_input_leaves_nothing_behind(
    documents: list[str], tokenizer: str, rule: str, kind: str, keys: tuple[str, ...], tmp_path: Path
) -> None:
    corpus = write(tmp_path, documents)
    error = refusal(lambda: prepare(corpus, tokenizer, rule, cache=tmp_path / "cache"))
    assert facts(error) == (kind, keys, None)
    left = [entry for entry in (tmp_path / "cache").rglob("*") if entry.suffix != ".lock" and entry.name != "locks"]
    assert left == []


def test_a_cache_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    error = refusal(lambda: prepare(write(tmp_path, DOCUMENTS), "char", cache=tmp_path / "cache"))
    assert error.kind == "cannot_write"
    assert str(error).startswith(f"cannot write to the cache {tmp_path / 'cache'} (")
    assert str(error).endswith("): set NANOSWEEP_CACHE to a folder on another disk")


def test_the_cache_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("NANOSWEEP_CACHE")
    assert default_cache() == Path.home() / ".cache" / "nanosweep"


FULL_DISK = """
import sys
from pathlib import Path
from data.errors import UserError
from data.prepare import prepare
cache = Path(sys.argv[1])
for corpus in sys.argv[2:]:
    try:
        prepare(corpus, "char", cache=cache)
    except UserError as error:
        print(error)
print([entry.name for entry in cache.iterdir()])
"""
ON_A_SMALL_DISK = ["unshare", "--map-root-user", "--mount", "sh", "-c"]


def test_a_full_disk_is_said_so_and_nothing_half_written_stays(tmp_path: Path) -> None:
    """On a real file system of one megabyte, full while writing stories (in a child) or tokens."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs {disk}"
    probe = subprocess.run([*ON_A_SMALL_DISK, mount], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"needs to mount a small file system: {probe.stderr.strip()}")
    (tmp_path / "long.txt").write_text("a line of text\n" * 100_000)
    run = f'{mount} && exec "$@"'
    command = [sys.executable, "-c", FULL_DISK, str(disk), "stories:9000", f"text:{tmp_path}/long.txt"]
    result = subprocess.run([*ON_A_SMALL_DISK, run, "sh", *command], cwd=ROOT, capture_output=True, text=True)
    lines = result.stdout.splitlines()
    assert len(lines) == 3, result.stderr
    assert all(line.startswith(f"no space left in {disk} ") for line in lines[:2])
    assert lines[2] == "['locks']"


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where no file system can be mounted: the third array written meets a full disk."""
    written: list[Path] = []

    class Full(encode.NpyWriter):
        def __init__(self, path: Path, dtype: np.dtype[np.generic]) -> None:
            written.append(path)
            if len(written) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().__init__(path, dtype)

    monkeypatch.setattr(encode, "NpyWriter", Full)
    error = refusal(lambda: prepare(write(tmp_path, DOCUMENTS), "char", cache=tmp_path / "cache"))
    assert error.kind == "full_disk"
    assert str(error) == (
        f"no space left in {tmp_path / 'cache'} for the prepared corpus: make room, or set NANOSWEEP_CACHE to a folder "
        "on another disk"
    )
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["locks"]


def test_progress_is_shown_only_when_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepare(write(tmp_path, ["A.", "B.", "C."]), "char", cache=tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")
    prepare("stories:50", "bpe:280", cache=tmp_path / "shown", progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    for label in ("writing stories", "training bpe:280", "tokenising train", "tokenising test"):
        assert label in shown.err


WITHOUT = """
import sys
from pathlib import Path
from data.prepare import prepare
prepare(sys.argv[1], "char", cache=Path(sys.argv[2]))
print(sorted({"torch", "datasets", "tokenizers", "tiktoken", "rich", "pandas", "pyarrow"} & set(sys.modules)))
"""


def test_preparing_text_by_characters_loads_no_heavy_library(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, write(tmp_path, DOCUMENTS), str(tmp_path / "cache")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"
