"""Which models are in memory: loaded on first use, shared, never taken from somebody who is being answered."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from core import pairs, steps
from core import pool as pool_module
from core.checkpoints import loading
from core.checkpoints import memory as fitting
from core.checkpoints.loading import Checkpoint
from core.errors import NotEnoughMemory, UserError
from core.pool import Pool
from core.run import Run
from core.settings import Settings
from core.types import CheckpointInfo, Comparison
from tests import tiny
from tests.pairs import comparison, loaded

ROWS = {"a": ("a-base", "a-chat"), "b": ("b-base", "b-chat"), "c": ("c-base", "c-chat"), "a2": ("a-base", "a-other")}


class NoHub:
    def look_up(self, id, revision):
        raise UserError(f"{id} is not on this machine and the Hub cannot be reached.")

    def download(self, repository, report, only=()):
        raise AssertionError("nothing is downloaded here")


class Memory:
    """Stands in for loading: a machine with room for `room` models, which notes what it does."""

    def __init__(self):
        self.room = 4
        self.loads: list[str] = []
        self.present: list[str] = []
        self.broken: set[str] = set()
        self.siblings: dict[str, object] = {}  # what each was loaded beside
        self.gate = threading.Event()
        self.gate.set()

    def load(self, source, hub, settings, placement, report, patience, sibling) -> Checkpoint:
        report(f"Loading {source.name}", None)
        assert self.gate.wait(30)
        self.loads.append(source.name)
        self.siblings[source.name] = sibling
        if source.name in self.broken:
            raise UserError(f"{source.name} could not be loaded: it is broken.")
        if len(self.present) >= self.room:
            raise NotEnoughMemory("These weights need more than is free; choose a smaller pair.")
        self.present.append(source.name)
        spelling = tiny.tokenizer()
        if source.name == "c-chat":
            spelling.add_tokens(["another", "vocabulary"])
            vars(spelling)["get_vocab"] = lambda: {"x": 5}
        return Checkpoint(
            info=CheckpointInfo(name=source.name, source=source.name, revision=None, parameters=1),
            weights_sha256="a" * 64,
            tokenizer=spelling,
            stop_ids=frozenset(),
            model=SimpleNamespace(),
            engine=SimpleNamespace(
                close=lambda: self.present.remove(source.name),
                closed=False,
                hung=False,
                shape=f"the lanes of {source.name}",
                info=lambda: None,
                context=64,
                vocabulary=tiny.VOCABULARY,
            ),
        )


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of pairs in place of checkpoints/."""
    rows = [
        f'[[pair]]\nid = "{id}"\ntitle = "{id}"\nbase = "{base}"\npost = "{post}"\n'
        for id, (base, post) in ROWS.items()
    ]
    rows.append('[[pair]]\nid = "far"\ntitle = "far"\nbase = "owner/far"\npost = "owner/far-chat"\n')
    (tmp_path / "pairs.toml").write_text("\n".join(rows), "utf-8")
    monkeypatch.setattr(pairs, "HOME", tmp_path)
    return tmp_path


@pytest.fixture
def memory(home, monkeypatch) -> Memory:
    for name in {name for row in ROWS.values() for name in row}:
        (home / name).mkdir()
        for file in ("config.json", "model.safetensors"):
            (home / name / file).touch()
    memory = Memory()
    monkeypatch.setattr(loading, "load", memory.load)
    monkeypatch.setattr(loading, "check_kind", lambda source, hub, placement: f"what {source.name} needs")
    return memory


@pytest.fixture
def pool(memory, monkeypatch):
    monkeypatch.setattr(pool_module, "GRACE", 0)
    pool = Pool(Settings(device="cpu", pair="a"), NoHub())
    yield pool
    memory.gate.set()
    pool.close()


def use(pool: Pool, id: str) -> None:
    pool.wait(id).release()


def test_a_pair_is_loaded_on_its_first_use_and_kept(pool, memory):
    assert memory.loads == [], "starting loads nothing"
    first, second = pool.wait("a"), pool.wait("a")
    assert (first.base, first.post) == (second.base, second.post)
    assert sorted(memory.loads) == ["a-base", "a-chat"]
    assert loaded(pool) == ["a-base", "a-chat"]


def test_two_pairs_with_the_same_base_share_its_weights(pool, memory):
    assert pool.wait("a").loaded["base"] is pool.wait("a2").loaded["base"]
    assert memory.loads.count("a-base") == 1


def test_a_model_is_in_memory_once_whichever_side_of_a_pair_it_is(pool, memory, home):
    pool.add(pairs.own_pair(str(home / "a-chat"), str(home / "a-other")))
    with pool.wait("a") as first, pool.wait("a-chat | a-other") as second, pool.wait("a2") as third:
        assert second.loaded["base"] is first.loaded["post"] and third.loaded["post"] is second.loaded["post"]
    assert sorted(memory.loads) == ["a-base", "a-chat", "a-other"]
    assert pool.ready


def test_an_adapter_is_merged_into_each_base_apart(pool, memory, home):
    (home / "a-chat" / "adapter_config.json").touch()
    pool.add(pairs.own_pair(str(home / "b-base"), str(home / "a-chat")))
    with pool.wait("b-base | a-chat") as one:
        pool.add(pairs.own_pair(str(home / "c-base"), str(home / "a-chat")))
        with pool.wait("c-base | a-chat") as other:
            assert one.post is not other.post
    assert memory.loads.count("a-chat") == 2


def test_a_model_is_loaded_beside_what_its_sibling_needs_or_in_the_lanes_that_it_has(pool, memory):
    """The first one leaves room for the second, which gets lanes like the first's; so does one that comes later."""
    use(pool, "a")
    first, second = memory.loads
    assert memory.siblings[first] == f"what {second} needs"
    assert memory.siblings[second] == f"the lanes of {first}"
    use(pool, "a2")
    assert memory.siblings["a-other"] == "the lanes of a-base"
    assert all(entry.sibling is None for entry in pool._entries.values()), "none keeps another's weights"


def test_what_cannot_be_loaded_is_no_sibling(pool, memory, monkeypatch):
    def check_kind(source, hub, placement):
        if source.name == "b-chat":
            raise UserError("b-chat is no decoder; choose another.")
        return "needs"

    monkeypatch.setattr(loading, "check_kind", check_kind)
    with pytest.raises(UserError, match="b-chat is no decoder"):
        use(pool, "b")
    assert memory.siblings["b-base"] is None


def test_what_is_unloaded_goes_back_to_the_machine(pool, memory, monkeypatch):
    returned: list[list[str]] = []
    monkeypatch.setattr("core.pool.give_back", lambda: returned.append(sorted(memory.present)))
    use(pool, "a")
    use(pool, "b")
    assert returned == []
    memory.room = 3
    use(pool, "c")
    assert returned[0] == ["a-chat", "b-base", "b-chat"], (
        "when the engine of the one that was idle the longest has ended"
    )


def test_visitors_who_ask_at_once_share_one_load_and_see_its_progress(pool, memory):
    memory.gate.clear()
    openings = [pool.open("a") for _ in range(3)]
    assert next(openings[0])
    for opening in openings:
        assert next(opening).text in ("Loading a-base", "Waiting for another model to load")
    memory.gate.set()
    leases = [pool.wait("a") for _ in openings]
    assert len({id(lease.base) for lease in leases}) == 1
    assert len(memory.loads) == 2


def test_the_least_recently_used_idle_pair_makes_room(pool, memory):
    for id in ("a", "b", "a"):
        use(pool, id)
    memory.room = 4
    with pool.wait("c") as lease:
        assert not lease.kin.same_ids, "and they are served all the same"
    assert sorted(memory.present) == ["a-base", "a-chat", "c-base", "c-chat"]


def test_a_pair_in_use_is_never_unloaded_and_the_newcomer_gets_the_sentence(pool, memory):
    memory.room = 2
    lease = pool.wait("a")
    with pytest.raises(NotEnoughMemory, match="choose a smaller pair"):
        pool.wait("b")
    assert sorted(memory.present) == ["a-base", "a-chat"]
    lease.release()
    use(pool, "b")
    assert sorted(memory.present) == ["b-base", "b-chat"], "once it is idle it makes room"


def test_who_gives_way_lets_go_for_somebody_else_and_comes_back_in_the_same_lanes(pool, memory):
    memory.room = 2
    study = steps.finish(pool.open("a", gives_way=True))
    assert not study.wanted()
    with ThreadPoolExecutor(2) as threads:
        visitor = threads.submit(pool.wait, "b")
        while not study.wanted():
            assert not visitor.done()
            time.sleep(0.01)
        study.release()
        back = threads.submit(steps.finish, pool.open("a", gives_way=True))
        with visitor.result(60):
            assert loaded(pool) == ["b-base", "b-chat"] and not back.done()
        with back.result(60) as again:
            assert loaded(pool) == ["a-base", "a-chat"] and not again.wanted()
    assert memory.siblings["a-base"] == "the lanes of a-base" and memory.siblings["a-chat"] == "the lanes of a-chat"


def test_who_reads_a_reply_finds_the_models_still_there_though_a_study_waits_for_the_memory(pool, memory, monkeypatch):
    memory.room = 2
    monkeypatch.setattr(pool_module, "GRACE", 0.6)
    use(pool, "b")
    study = pool.open("a", gives_way=True)
    began = time.monotonic()
    while time.monotonic() - began < 0.4:
        assert str(next(study)) and loaded(pool) == ["b-base", "b-chat"]
    use(pool, "b")
    assert memory.loads.count("b-base") == 1, "nothing of theirs had to be loaded again"
    with steps.finish(study):
        assert time.monotonic() - began > 0.9 and loaded(pool) == ["a-base", "a-chat"]


def test_what_comes_back_in_other_lanes_is_not_taken(pool, memory, monkeypatch):
    steps.finish(pool.open("a", gives_way=True)).release()
    use(pool, "b")
    use(pool, "c")
    assert "a-base" not in loaded(pool)
    load = memory.load

    def smaller(*given):
        found = load(*given)
        found.engine.shape = "fewer lanes"
        return found

    monkeypatch.setattr(loading, "load", smaller)
    with pytest.raises(NotEnoughMemory, match="in the lanes that it had; run the study again"):
        steps.finish(pool.open("a", gives_way=True))
    use(pool, "a")


def test_nobody_is_displaced_for_whoever_gives_way(pool, memory):
    memory.room = 2
    for holds in (False, True):
        holder = steps.finish(pool.open("a", gives_way=holds))
        loads, waiting = len(memory.loads), pool.open("b", gives_way=True)
        said = [str(next(waiting)) for _ in range(20)]
        assert said[-5:] == 5 * ["Waiting for memory that others use"] and not holder.wanted()
        assert len(memory.loads) <= loads + 2, "it tries again when somebody has let go, not before"
        holder.release()
        steps.finish(waiting).release()
        assert loaded(pool) == ["b-base", "b-chat"]


def test_who_gives_way_is_refused_what_never_fits_and_leaves_no_trace(pool, memory):
    memory.room = 1
    with pytest.raises(NotEnoughMemory):
        steps.finish(pool.open("a", gives_way=True))
    memory.room = 2
    with pool.wait("b"):
        waiting = pool.open("a", gives_way=True)
        next(waiting)
        waiting.close()
    use(pool, "c")
    assert loaded(pool) == ["c-base", "c-chat"]


def test_releasing_twice_gives_back_once(pool, memory):
    memory.room = 2
    held, other = pool.wait("a"), pool.wait("a")
    other.release()
    other.release()
    with pytest.raises(NotEnoughMemory):
        pool.wait("b")
    held.release()
    use(pool, "b")


def test_what_failed_is_tried_again_and_the_other_pair_stays(pool, memory):
    lease = pool.wait("a")
    memory.broken = {"b-chat"}
    with pytest.raises(UserError, match="b-chat could not be loaded: it is broken"):
        pool.wait("b")
    with pytest.raises(UserError, match="owner/far is not on this machine"):
        pool.wait("far")
    assert (pool.wait("a").base, pool.wait("a").post) == (lease.base, lease.post)
    memory.broken = set()
    use(pool, "b")
    assert memory.loads.count("b-base") == 1, "the half that was loaded is not loaded again"


def test_an_unexpected_failure_is_a_sentence_too(pool, monkeypatch, caplog):
    def fail(*arguments):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(loading, "load", fail)
    with pytest.raises(UserError, match=r"a-base could not be loaded \(ZeroDivisionError: .*choose another model\."):
        pool.wait("a")
    assert "ZeroDivisionError" in caplog.text, "with its trace in the log"


def test_a_visitor_who_leaves_while_it_loads_holds_nothing(pool, memory):
    memory.gate.clear()
    opening = pool.open("a")
    next(opening)
    opening.close()
    memory.gate.set()
    use(pool, "a")
    memory.room = 2
    use(pool, "b")
    assert sorted(memory.present) == ["b-base", "b-chat"]


def test_left_by_ctrl_c_it_waits_for_nothing_that_is_still_being_loaded(pool, memory):
    memory.gate.clear()
    with pytest.raises(KeyboardInterrupt), pool:
        next(pool.open("a"))
        raise KeyboardInterrupt
    assert not memory.loads, "the loaders still stand at the gate"
    memory.gate.set()


def test_peeking_never_loads(pool, memory):
    assert pool.peek("a") is None
    assert memory.loads == []
    use(pool, "a")
    lease = pool.peek("a")
    assert lease is not None
    memory.room = 2
    with pytest.raises(NotEnoughMemory):
        pool.wait("b")
    lease.release()


def test_loading_ahead_is_for_whoever_asks_next(pool, memory):
    pool.start_loading("a")
    use(pool, "a")
    assert len(memory.loads) == 2


def test_a_pair_that_is_added_is_one_of_all(pool, memory, home):
    own = pairs.own_pair(f" {home / 'b-base'}", str(home / "c-chat"))
    assert own == pairs.Pair(id="b-base | c-chat", title="b-base and c-chat", base=str(home / "b-base"), post=str(home / "c-chat"))  # fmt: skip
    with pytest.raises(UserError, match="There is no pair"):
        pool.wait(own.id)
    steps.finish(pool.bring(own)).release()
    assert own not in pool.pairs, "before it is added"
    pool.add(own)
    pool.add(own.model_copy(update={"base": "b-base"}))
    assert pool.pairs.count(own) == 1 and len(pool.pairs) == len(ROWS) + 2, "however it is typed it is one"
    assert sorted(memory.loads) == ["b-base", "c-chat"]
    use(pool, own.id)
    assert len(memory.loads) == 2, "it is in memory already"


def test_two_pairs_of_one_name_cannot_be_told_apart(pool, home, tmp_path):
    (tmp_path / "else" / "c-chat").mkdir(parents=True)
    pool.add(pairs.own_pair("b-base", str(home / "c-chat")))
    with pytest.raises(UserError, match="Another pair is called b-base and c-chat here; give one of these folders"):
        pool.add(pairs.own_pair("b-base", str(tmp_path / "else" / "c-chat")))


@pytest.mark.parametrize(
    ("base", "post", "sentence"),
    [
        ("", "x/y", "Name both models"),
        ("x/y", "  ", "Name both models"),
        ("x/y", "/nowhere/at all", "no folder '/nowhere/at all'"),
    ],
)
def test_what_names_no_model_is_a_sentence(base, post, sentence):
    with pytest.raises(UserError, match=sentence):
        pairs.own_pair(base, post)


def test_an_unknown_pair_is_refused_without_a_trace(pool, memory):
    with pytest.raises(UserError, match="There is no pair 'z' here"):
        pool.wait("z")
    assert memory.loads == []


def test_a_page_with_a_list_knows_no_other_pair(memory):
    """Menu, API, links and receipts ask the pool alone."""
    with Pool(Settings(device="cpu", pairs=("b", "a2")), NoHub()) as pool:
        assert [pair.id for pair in pool.pairs] == ["b", "a2"] and pool.default.id == "b"
        for ask in (pool.wait, pool.peek, pool.start_loading):
            with pytest.raises(UserError, match="There is no pair 'a' here"):
                ask("a")
        assert memory.loads == []
        use(pool, "a2")
    with Pool(Settings(device="cpu", pairs=("b", "a2"), pair="a2"), NoHub()) as pool:
        assert pool.default.id == "a2"
    for wrong in (Settings(pairs=("b", "z")), Settings(pairs=("b",), pair="a")):
        with pytest.raises(UserError, match=r"There is no pair '[za]' here"):
            Pool(wrong, NoHub())


@pytest.mark.slow
def test_one_visitors_choice_does_not_disturb_anothers_reply(home, monkeypatch):
    """On real engines: while one reply is written, another pair is asked for and refused, and no token changes."""
    for seed, name in enumerate(("a-base", "a-chat", "b-base", "b-chat")):
        tiny.save(home / name, tiny.model(seed=seed), tiny.tokenizer(tiny.CHATML))
    pool = Pool(Settings(device="cpu", dtype="float32", slots=2, threads=1, pair="a"), NoHub())
    monkeypatch.setattr(fitting, "free_bytes", lambda device: 2**40 if len(loaded(pool)) < 2 else 2**20)
    asked = Comparison.model_validate({**comparison(max_new_tokens=120).model_dump(), "pair": "a"})
    try:
        lease = pool.wait("a")
        alone = finish(Run(lease, asked))
        run = Run(lease, asked)
        refused: list[str] = []
        for snapshot in run.snapshots(lambda: 0.0):
            if len(snapshot.base.token_ids) > 3 and not refused:
                with pytest.raises(NotEnoughMemory) as refusal:
                    pool.wait("b")
                refused.append(str(refusal.value))
        assert "is free; choose a smaller pair" in refused[0]
        assert ids(run) == alone
        lease.release()
        use(pool, "b")
        assert loaded(pool) == ["b-base", "b-chat"]
        with pytest.raises(UserError, match="press Compare again"):
            Run(lease, asked)
    finally:
        pool.close()


def ids(run: Run) -> tuple:
    result = run.result()
    return result.base.token_ids, result.post.token_ids


def finish(run: Run) -> tuple:
    for _ in run.snapshots():
        pass
    return ids(run)


def test_a_model_whose_engine_has_failed_is_loaded_anew(pool, memory):
    lease = pool.wait("a")
    lease.loaded["post"].engine.closed = True
    lease.release()
    pool.wait("a").release()
    assert sorted(memory.loads) == ["a-base", "a-chat", "a-chat"]


def test_what_failed_is_forgotten_with_everything_it_held(pool, memory):
    memory.broken.add("b-chat")
    with pytest.raises(UserError) as caught:
        pool.wait("b")
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert ("b-chat", "b-base", 1) not in pool._entries
