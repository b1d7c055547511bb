"""Settings: flags win over the environment, the environment over the defaults, and no password on the command line."""

import argparse
from importlib.metadata import PackageNotFoundError

import pytest

from core import settings
from core.errors import UserError
from core.settings import Settings


def read(*flags: str, **environment: str) -> Settings:
    parser = argparse.ArgumentParser()
    settings.add_model_flags(parser)
    settings.add_server_flags(parser)
    return Settings.read(parser.parse_args(flags), environment)


def test_without_flags_or_environment_the_defaults_hold():
    assert read() == Settings(own_pairs="local")
    assert (Settings().host, Settings().port, Settings().pair) == ("127.0.0.1", 7860, "embedded")


def test_a_space_sets_the_address_by_the_environment():
    there = read(GRADIO_SERVER_NAME="0.0.0.0", GRADIO_SERVER_PORT="7861", GRADIO_ROOT_PATH="/seed")
    assert (there.host, there.port, there.root_path) == ("0.0.0.0", 7861, "/seed")


def test_flags_win_over_the_environment():
    here = read("--host", "127.0.0.2", "--port", "0", GRADIO_SERVER_NAME="0.0.0.0", GRADIO_SERVER_PORT="7861")
    assert (here.host, here.port) == ("127.0.0.2", 0)


def test_every_flag_reaches_the_settings():
    flags = "--pair p --base b --post q --device cpu --dtype float32 --slots 2 --threads 3 --context 4 --characters 5 --hang-seconds 6 --hang-again 7 --share --own-pairs everyone"
    assert read(*flags.split()) == Settings(
        pair="p",
        base="b",
        post="q",
        device="cpu",
        dtype="float32",
        slots=2,
        threads=3,
        context=4,
        characters=5,
        hang_seconds=6,
        hang_again=7,
        share=True,
        own_pairs="everyone",
    )


@pytest.mark.parametrize(
    ("flags", "environment", "sentence"),
    [
        (["--base", "x"], {}, "--base and --post go together"),
        (["--post", "x"], {}, "--base and --post go together"),
        (["--slots", "0"], {}, "--slots must be 1 or more."),
        (["--threads", "-1"], {}, "--threads must be 1 or more."),
        (["--context", "0"], {}, "--context must be 1 or more."),
        (["--characters", "0"], {}, "--characters must be 1 or more."),
        (["--hang-seconds", "0"], {}, "--hang-seconds must be 1 or more."),
        (["--replicas", "0"], {}, "--replicas must be 1 or more."),
        (["--busy-seconds", "0"], {}, "--busy-seconds must be 1 or more."),
        (["--pin", "embedded"], {}, "--pin takes ID=FINGERPRINT"),
        (["--pin", "embedded=abc"], {}, "'embedded=abc' is none."),
        ([], {"GRADIO_SERVER_PORT": "many"}, "GRADIO_SERVER_PORT must be a number."),
        (["--auth", "/nowhere/at/all"], {}, "cannot be read as one"),
        ([], {"SAME_SEED_OWN_PAIRS": "local"}, "SAME_SEED_OWN_PAIRS must be everyone or nobody."),
        ([], {"SAME_SEED_AUTH": "ada"}, "must be user:password"),
        ([], {"SAME_SEED_AUTH": "ada:"}, "must be user:password"),
    ],
)
def test_mistakes_are_one_sentence(flags, environment, sentence):
    with pytest.raises(UserError) as refusal:
        read(*flags, **environment)
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


def test_only_who_sits_here_may_bring_models_unless_the_operator_says_else():
    assert Settings().own_pairs == "nobody", "where nobody has said who reaches the page"
    for here in ("127.0.0.1", "127.8.0.1", "localhost", "::1", "[::1]"):
        assert read("--host", here).own_pairs == "local"
    for anywhere in ("0.0.0.0", "::", "192.168.0.7", "seed.example.org", "127.0.0.1.example.org"):
        assert read("--host", anywhere).own_pairs == "nobody"
    assert read("--share").own_pairs == read(GRADIO_ROOT_PATH="/seed").own_pairs == "nobody"
    assert read("--own-pairs", "everyone", "--share").own_pairs == "everyone"
    assert read("--own-pairs", "nobody").own_pairs == "nobody"
    assert read(GRADIO_SERVER_NAME="0.0.0.0", SAME_SEED_OWN_PAIRS="everyone").own_pairs == "everyone"
    assert read("--own-pairs", "nobody", SAME_SEED_OWN_PAIRS="everyone").own_pairs == "nobody", "the flag wins"


def test_the_address_of_the_page_is_what_a_proxy_or_a_space_says():
    assert read(GRADIO_ROOT_PATH="https://a.example/seed").address == "https://a.example/seed"
    assert read(SPACE_HOST="owner-seed.hf.space", GRADIO_ROOT_PATH="/seed").address == "https://owner-seed.hf.space"
    assert read().address == Settings().address == ""


def test_the_operator_lists_the_pairs_of_the_page():
    assert read().pairs == ()
    assert read("--pairs", " b, a,b,").pairs == read(SAME_SEED_PAIRS="b,a").pairs == ("b", "a")
    assert read("--pairs", "a", SAME_SEED_PAIRS="b").pairs == ("a",), "the flag wins"
    assert read("--pairs", "a").own_pairs == "nobody"
    assert read("--pairs", "a", "--own-pairs", "everyone").own_pairs == "everyone"
    with pytest.raises(UserError, match=r"--pairs .* names the pairs to offer"):
        read("--pairs", " , ")
    command = argparse.Namespace(pair="c")
    assert Settings.read(command, {"SAME_SEED_PAIRS": "a"}).pairs == (), "a command of one's own machine knows all"


def test_passwords_come_from_a_file_or_the_environment(tmp_path):
    file = tmp_path / "auth"
    file.write_text("ada:pass:word\n\n  bob:x  \n", "utf-8")
    assert read("--auth", str(file)).auth == (("ada", "pass:word"), ("bob", "x"))
    assert read(SAME_SEED_AUTH="ada:1\nbob:2").auth == (("ada", "1"), ("bob", "2"))
    assert read("--auth", str(file), SAME_SEED_AUTH="eve:3").auth[0][0] == "ada", "the flag wins"


def test_an_empty_or_binary_password_file_locks_nobody_out_silently(tmp_path):
    """Without this, a file that was meant to protect the page would leave it open."""
    file = tmp_path / "auth"
    for content, sentence in ((b"\n\n", "is empty"), (b"\xff\xfe\x00", "cannot be read")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            read("--auth", str(file))


def test_what_the_person_has_set_stays(monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
    settings.quieten()
    assert settings.environment()["TRANSFORMERS_VERBOSITY"] == "info"
    assert settings.environment()["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_no_header_is_believed_unless_the_operator_names_it():
    assert read().address_header == ""
    assert read(SAME_SEED_ADDRESS_HEADER="X-Real-IP").address_header == "X-Real-IP"
    both = read("--address-header", "X-Forwarded-For", SAME_SEED_ADDRESS_HEADER="X-Real-IP")
    assert both.address_header == "X-Forwarded-For"


def test_the_operator_names_the_pages_that_may_show_this_one():
    assert read().embed_in == ()
    named = read("--embed-in", "https://Learn.example.org/, http://127.0.0.1:8000", "--embed-in", "https://[::1]:1")
    assert named.embed_in == ("https://learn.example.org", "http://127.0.0.1:8000", "https://[::1]:1")


@pytest.mark.parametrize(
    "said",
    ["", "learn.example.org", "https://", "https://a.example/course", "ftp://a.example", "*", "https://*.example", "'self'", "https://a.example; script-src *", "https://a.example\nx", "https://a.example,"],
)  # fmt: skip
def test_what_is_no_origin_is_refused_in_a_sentence(said):
    with pytest.raises(UserError, match="--embed-in takes the origin of the page") as refusal:
        read("--embed-in", said)
    assert "\n" not in str(refusal.value)


def test_tools_for_agents_are_asked_for_and_need_a_package(monkeypatch):
    assert not read().mcp
    monkeypatch.setattr(settings, "version", lambda name: "2.3.0")
    assert read("--mcp").mcp

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    for there in (missing, lambda name: "1.30.0"):
        monkeypatch.setattr(settings, "version", there)
        assert not read().mcp
        with pytest.raises(UserError, match=r'pip install "mcp>=2.3,<3"') as refusal:
            read("--mcp")
        assert "\n" not in str(refusal.value)


def test_replicas_elsewhere_are_asked_for_and_need_a_package(monkeypatch):
    assert read().cluster == "" and read().pins == ()
    monkeypatch.setattr(settings, "version", lambda name: "2.60.0")
    digest, other = "0" * 64, "f" * 64
    found = read("--cluster", "local", "--replicas", "3", "--busy-seconds", "9", "--pin", f"a={digest},b={other}")
    assert (found.cluster, found.replicas, found.busy_seconds) == ("local", 3, 9)
    assert found.pins == (("a", digest), ("b", other))

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(settings, "version", missing)
    with pytest.raises(UserError, match=r"pip install -r requirements-cluster\.txt$") as refusal:
        read("--cluster", "auto")
    assert "\n" not in str(refusal.value)
