"""The Hub: what it answers and how it fails, against a small Hub on this machine and the library's own errors."""

import errno
import hashlib
import json
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import httpx2
import pytest
from huggingface_hub import HfApi, constants, errors

import app
from core import hub, pairs
from core.errors import UserError
from core.hub import HuggingFaceHub, Repository
from tests import tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"w" * 300_000,
    "README.md": b"# Words",
    "onnx/model.safetensors": b"x" * 10,
    "pytorch_model.bin": b"y" * 10,
}


class SmallHub(BaseHTTPRequestHandler):
    """One repository, owner/name, as the Hub's HTTP interface shows it."""

    gated = False
    sha256: ClassVar[dict[str, str]] = {}  # what is listed of large files

    def lfs(self, name: str) -> dict[str, Any]:
        size = {"size": len(FILES[name]), "pointerSize": 9}
        return {"lfs": {**size, "sha256": self.sha256[name]}} if name in self.sha256 else {}

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in ("/api/models/owner/name", *(f"/api/models/owner/name/revision/{r}" for r in ("main", COMMIT))):
            siblings = [{"rfilename": name, "size": len(data), **self.lfs(name)} for name, data in FILES.items()]
            self._answer({"id": "owner/name", "sha": COMMIT, "siblings": siblings})
        elif path == f"/api/models/owner/name/tree/{COMMIT}":
            entries = [{"type": "file", "path": n, "size": len(data), "oid": f"{n}-blob"} for n, data in FILES.items()]
            self._answer(entries)
        elif path.startswith("/api/models/owner/name/"):
            self._refuse(404, "RevisionNotFound")
        elif path.startswith(f"/owner/name/resolve/{COMMIT}/") and self.gated:
            self._refuse(401, "GatedRepo")
        elif path.startswith(f"/owner/name/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/owner/name/resolve/{COMMIT}/")
            self._send(200, FILES[name], {"ETag": f'"{name}-etag"', "X-Repo-Commit": COMMIT})
        else:
            self._refuse(404, "RepoNotFound")

    def _answer(self, value) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args) -> None: ...


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the Hub's client."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(cache, monkeypatch):
    """The client talks to a small Hub; returns a function that takes it off the network."""
    serving = ThreadingHTTPServer(("127.0.0.1", 0), SmallHub)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    endpoint = f"http://127.0.0.1:{serving.server_port}"
    path = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + path)
    monkeypatch.setattr(SmallHub, "gated", False)
    stopped = threading.Event()

    def stop() -> None:
        if not stopped.is_set():
            stopped.set()
            serving.shutdown()
            serving.server_close()
            thread.join()

    yield stop
    stop()


def test_a_name_is_pinned_to_the_commit_it_stands_for(server):
    repository = HuggingFaceHub().look_up("owner/name", None)
    assert repository == Repository("owner/name", COMMIT, {name: len(data) for name, data in FILES.items()})
    assert HuggingFaceHub().look_up("owner/name", "main") == repository
    assert HuggingFaceHub().look_up("owner/name", COMMIT) == repository


def test_only_the_files_that_a_model_needs_are_downloaded(server):
    repository = HuggingFaceHub().look_up("owner/name", None)
    folder = HuggingFaceHub().download(repository, lambda done: None)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors")
    }
    assert set(repository.wanted()) == {"config.json", "model.safetensors"}


def test_progress_grows_to_the_whole(server):
    done: list[float] = []
    HuggingFaceHub().download(HuggingFaceHub().look_up("owner/name", None), done.append)
    assert done == sorted(done)
    assert done[0] >= 0 and done[-1] == 1


def test_what_does_not_fit_onto_the_disk_is_refused_before_anything_is_asked_for(server, monkeypatch):
    repository = HuggingFaceHub().look_up("owner/name", None)
    server()
    free = SimpleNamespace(free=hub.SPARE_DISK + 300_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    with pytest.raises(UserError, match=r"owner/name needs 0 MB of disk, and 0 MB can be taken here"):
        HuggingFaceHub().download(repository, lambda done: None)


def test_what_is_here_takes_no_disk(server, monkeypatch):
    repository = HuggingFaceHub().look_up("owner/name", None)
    folder = HuggingFaceHub().download(repository, lambda done: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    assert HuggingFaceHub().download(repository, lambda done: None) == folder


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
@pytest.mark.parametrize("how", ["no network", "offline mode"])
def test_what_was_downloaded_once_works_without_a_network(server, monkeypatch, how, revision):
    before = HuggingFaceHub().look_up("owner/name", revision)
    folder = HuggingFaceHub().download(before, lambda done: None)
    server()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "offline mode")
    after = HuggingFaceHub().look_up("owner/name", revision)
    assert (after.id, after.revision, set(after.files)) == (before.id, COMMIT, set(before.wanted()))
    assert HuggingFaceHub().download(after, lambda done: None) == folder


@pytest.mark.parametrize("size", [300_000, 299_999], ids=["of the same size", "shorter"])
def test_a_file_that_is_not_what_the_hub_lists_is_taken_away_and_brought_again(server, monkeypatch, size):
    weights = FILES["model.safetensors"]
    monkeypatch.setattr(SmallHub, "sha256", {"model.safetensors": hashlib.sha256(weights).hexdigest()})
    repository = HuggingFaceHub().look_up("owner/name", None)
    assert repository.sha256 == SmallHub.sha256
    folder = HuggingFaceHub().download(repository, lambda done: None)
    done: list[float] = []
    hub.check(repository, folder, done.append)
    assert done == sorted(done) and done[-1] == 1
    (folder / "model.safetensors").resolve().write_bytes(b"v" * size)
    with pytest.raises(UserError, match=r"model\.safetensors of owner/name is not what the Hub lists"):
        hub.check(repository, folder, done.append)
    assert HuggingFaceHub().download(repository, lambda done: None) == folder
    hub.check(repository, folder, done.append)
    assert (folder / "model.safetensors").read_bytes() == weights


def test_a_pair_is_fetched_ahead_and_checked_and_what_is_here_needs_no_network(server, tmp_path, monkeypatch, capsys):
    config = json.dumps(tiny.model().config.to_dict()).encode()
    monkeypatch.setitem(FILES, "config.json", config)
    own = ["--base", "owner/name", "--post", str(tmp_path)]
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "model.safetensors").touch()
    assert app.main(["download", *own]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        f"name is on this machine, at {COMMIT}: 0 MB, checked.",
        f"{tmp_path.name} is a folder on this machine.",
    ]
    assert "Downloading name" in told.err
    server()
    assert app.main(["download", *own]) == 0
    assert "The Hub cannot be reached, so its files were not checked." in capsys.readouterr().out
    assert app.main(["download", "--base", "owner/other", "--post", str(tmp_path)]) == 2
    assert "owner/other is not on this machine and the Hub cannot be reached" in capsys.readouterr().err


def test_of_a_repository_one_gguf_file_is_fetched_and_checked_and_needs_no_network_again(server, monkeypatch, capsys):
    digest = hashlib.sha256(b"GGUF" * 9).hexdigest()
    monkeypatch.setattr(SmallHub, "sha256", {"a.gguf": digest})
    for name in ("a.gguf", "b.gguf"):
        monkeypatch.setitem(FILES, name, b"GGUF" * 9)
    spec = "owner/name/a.gguf"
    assert not hub.is_cached("owner/name", None, "a.gguf")
    assert app.main(["download", "--base", spec, "--post", spec]) == 0
    assert capsys.readouterr().out.splitlines() == 2 * [f"a.gguf is on this machine, at {COMMIT}: 0 MB, checked."]
    (there,) = Path(constants.HF_HUB_CACHE).rglob("snapshots/*/*")
    assert there.name == "a.gguf" and hub.is_cached("owner/name", None, "a.gguf")
    there.resolve().write_bytes(b"GGUF" * 8 + b"GGUX")
    assert app.main(["download", "--base", spec, "--post", spec]) == 2
    assert "a.gguf of owner/name is not what the Hub lists, so it was taken away" in capsys.readouterr().err
    assert app.main(["download", "--base", spec, "--post", spec]) == 0
    server()
    assert app.main(["download", "--base", spec, "--post", spec]) == 0
    assert "The Hub cannot be reached, so its files were not checked." in capsys.readouterr().out
    assert app.main(["download", "--base", "owner/name/b.gguf", "--post", spec]) == 2
    assert "owner/name has no file 'b.gguf'; it has a.gguf." in capsys.readouterr().err


def test_the_stages_between_are_fetched_where_they_are_asked_for(server, tmp_path, monkeypatch, capsys):
    config = json.dumps(tiny.model().config.to_dict()).encode()
    monkeypatch.setitem(FILES, "config.json", config)
    monkeypatch.setattr(pairs, "HOME", tmp_path)
    for name in ("first", "last"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(config)
        (tmp_path / name / "model.safetensors").touch()
    stages = ", ".join(f'{{name = "{source}", source = "{source}"}}' for source in ("first", "owner/name", "last"))
    row = f'id = "x"\ntitle = "X"\nbase = "first"\npost = "last"\nstages = [{stages}]\n'
    (tmp_path / "pairs.toml").write_text(f"[[pair]]\n{row}", "utf-8")
    ends = [f"{name} is a folder on this machine." for name in ("first", "last")]
    assert app.main(["download", "x"]) == 0
    assert capsys.readouterr().out.splitlines() == ends
    assert app.main(["download", "x", "--stages"]) == 0
    fetched = f"name is on this machine, at {COMMIT}: 0 MB, checked."
    assert capsys.readouterr().out.splitlines() == [*ends, fetched]
    assert app.main(["pairs"]) == 0
    assert "between them: owner/name owner/name" in capsys.readouterr().out


def test_weights_are_here_once_all_of_them_were_downloaded(server):
    assert not hub.is_cached("owner/name", None)
    repository = HuggingFaceHub().look_up("owner/name", None)
    folder = HuggingFaceHub().download(repository, lambda done: None, only=("config.json",))
    assert not hub.is_cached("owner/name", None), "only what the model is called"
    HuggingFaceHub().download(repository, lambda done: None)
    server()
    assert all(hub.is_cached("owner/name", revision) for revision in (None, "main", COMMIT))
    assert not hub.is_cached("owner/name", "v2") and not hub.is_cached("not an id", None)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    assert not hub.is_cached("owner/name", None), "one of two shards"
    (folder / "model-00002-of-00002.safetensors").touch()
    assert hub.is_cached("owner/name", None)
    (folder / "model.safetensors.index.json").write_text("{", "utf-8")
    assert not hub.is_cached("owner/name", None), "an index that cannot be read"


def test_what_was_never_downloaded_needs_a_network(server):
    server()
    with pytest.raises(UserError, match="not on this machine and the Hub cannot be reached; connect once"):
        HuggingFaceHub().look_up("owner/name", None)


def test_a_download_that_stopped_halfway_says_so_without_a_network(server, monkeypatch):
    repository = HuggingFaceHub().look_up("owner/name", None)
    folder = HuggingFaceHub().download(repository, lambda done: None)
    (folder / "model.safetensors").unlink()
    server()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client tries again for 23 seconds
    with pytest.raises(UserError, match="broke off"):
        HuggingFaceHub().download(repository, lambda done: None)


def test_a_gated_repository_says_what_to_do_although_its_list_of_files_is_public(server, monkeypatch):
    monkeypatch.setattr(SmallHub, "gated", True)
    repository = HuggingFaceHub().look_up("owner/name", None)
    with pytest.raises(UserError, match="owner/name is gated: accept its licence"):
        HuggingFaceHub().download(repository, lambda done: None)


@pytest.mark.parametrize(
    ("id", "revision", "sentence"),
    [
        ("owner/other", None, "no model 'owner/other' on the Hub, or it is private; check the spelling"),
        ("owner/name", "nightly", "owner/name has no revision 'nightly'; use a branch, a tag or a commit"),
        ("owner/name", "f" * 40, "owner/name has no revision 'ffff"),
        ("not an id", None, "'not an id' is neither a folder here nor a Hub id"),
        ("a/b/c", None, "'a/b/c' is neither a folder here nor a Hub id"),
    ],
)
def test_what_the_hub_does_not_have_is_one_sentence(server, id, revision, sentence):
    with pytest.raises(UserError) as refusal:
        HuggingFaceHub().look_up(id, revision)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def answered(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    request = httpx2.Request("GET", "https://huggingface.co/api/models/owner/name")
    return kind(f"{status} Client Error.\n\nSee there.", response=httpx2.Response(status, request=request))


def raising(error: Exception):
    def raise_it(*args, **options):
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (answered(errors.GatedRepoError, 403), "is gated: accept its licence on its model page, then set HF_TOKEN"),
        (answered(errors.RepositoryNotFoundError, 404), "There is no model 'owner/name' on the Hub"),
        (answered(errors.RevisionNotFoundError, 404), "has no revision 'v2'"),
        (answered(errors.DisabledRepoError, 403), "the Hub cannot be reached (it answers 403)"),
        (answered(errors.HfHubHTTPError, 503), "the Hub cannot be reached (it answers 503)"),
        (errors.HFValidationError("Repo id must\nbe short"), "is neither a folder here nor a Hub id"),
        (errors.OfflineModeIsEnabled("offline"), "the Hub cannot be reached; connect once"),
        (httpx2.ConnectError("[Errno -2] Name or service not known"), "the Hub cannot be reached; connect once"),
        (httpx2.ReadTimeout("slow"), "the Hub cannot be reached; connect once"),
        (httpx2.ProxyError("407"), "the Hub cannot be reached; connect once"),
        (TimeoutError("slow"), "the Hub cannot be reached; connect once"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_way_to_fail_at_looking_up_is_one_sentence(cache, monkeypatch, error, sentence):
    monkeypatch.setattr(HfApi, "model_info", raising(error))
    with pytest.raises(UserError) as refusal:
        HuggingFaceHub().look_up("owner/name", "v2")
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value) and str(refusal.value).endswith(".")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (answered(errors.GatedRepoError, 401), "owner/name is gated: accept its licence"),
        (answered(errors.HfHubHTTPError, 500), "Downloading owner/name broke off (HfHubHTTPError); try again"),
        (httpx2.ReadError("reset"), "Downloading owner/name broke off (ReadError); try again"),
        (errors.XetDownloadError("no"), "broke off (XetDownloadError); try again, what has arrived is kept"),
        (OSError(errno.ENOSPC, "No space left on device", "/home/somebody/x"), "(No space left on device)"),
        (errors.IncompleteSnapshotError("not all", "/home/somebody/x"), "broke off (IncompleteSnapshotError)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_way_to_fail_at_downloading_is_one_sentence(monkeypatch, error, sentence):
    monkeypatch.setattr(hub, "snapshot_download", raising(error))
    with pytest.raises(UserError) as refusal:
        HuggingFaceHub().download(Repository("owner/name", COMMIT, {"model.safetensors": 1}), lambda done: None)
    assert sentence in str(refusal.value)
    assert "/home" not in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_cached_adapter_is_found_although_it_is_known_to_have_no_config(cache, monkeypatch):
    snapshot = cache / "models--owner--name" / "snapshots" / COMMIT
    absent = cache / "models--owner--name" / ".no_exist" / COMMIT / "config.json"
    for file in (snapshot / "adapter_config.json", absent):
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    monkeypatch.setattr(HfApi, "model_info", raising(errors.OfflineModeIsEnabled("offline")))
    assert HuggingFaceHub().look_up("owner/name", COMMIT).files == {"adapter_config.json": 2}
