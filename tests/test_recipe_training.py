"""The training loop and its batches, on a model of a few thousand parameters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from checkpoints.recipe import __main__ as recipe
from checkpoints.recipe import attention, batches, cards, chats, export, tokenizer, train
from checkpoints.recipe.draw import talk
from core import pairs
from core.settings import Settings

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
}
SCHEDULE = train.Schedule(steps=6, warmup=2, decay=0.5, muon_learning_rate=0.02, adam_learning_rate=0.01)
TEXTS = [
    f"The {animal} sat on the {place}, and it was warm there."
    for animal in ("cat", "dog", "hen", "fox")
    for place in ("mat", "hill", "roof")
]


@pytest.fixture(scope="module")
def spelling():
    return tokenizer.train(TEXTS * 3, 300)


@pytest.fixture(scope="module")
def packed(spelling, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    batches.pack(TEXTS * 40, spelling, folder, "tales")
    return folder


def model() -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return train.new_model(SHAPE, 300)


def trained(folder, packed, *stops: int | None):
    """The weights after training, in as many runs as there are stops."""
    source = batches.Documents.open(packed, {"tales": 1.0}, 5)
    for stop in stops:
        weights = model()
        train.train(
            weights,
            lambda step: source.batch(step, 4, 16),
            SCHEDULE,
            folder,
            device="cpu",
            save_seconds=0.0,
            stop_at=stop,
            compiled=False,
        )
    return weights.state_dict()


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, packed):
    whole = trained(tmp_path / "whole", packed, None)
    in_parts = trained(tmp_path / "parts", packed, 2, 4, None)
    assert all(torch.equal(whole[name], in_parts[name]) for name in whole)
    spent = train.Spent.read(tmp_path / "parts")
    assert (spent.steps, spent.tokens) == (6, 6 * 4 * 16)


def test_the_weights_of_an_early_step_are_kept_with_their_cost(tmp_path, packed):
    source, weights = batches.Documents.open(packed, {"tales": 1.0}, 5), model()
    train.train(
        weights,
        lambda step: source.batch(step, 4, 16),
        SCHEDULE,
        tmp_path / "whole",
        device="cpu",
        keep_at=2,
        compiled=False,
    )
    early, stopped = train.weights(tmp_path / "whole" / train.EARLY), trained(tmp_path / "stopped", packed, 2)
    assert all(torch.equal(early[name], stopped[name]) for name in early)
    assert train.Spent.read(tmp_path / "whole" / train.EARLY).steps == 2


def test_training_lowers_the_loss_and_the_same_seed_gives_the_same_weights(tmp_path, packed):
    before = train.validation_losses(model(), packed, ["tales"], device="cpu", length=16)["tales"]
    first, second = (trained(tmp_path / name, packed, None) for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    after = model()
    after.load_state_dict(first)
    assert train.validation_losses(after, packed, ["tales"], device="cpu", length=16)["tales"] < before


@pytest.mark.parametrize("length", [7, 64, 100, 600])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_blocks_is_the_attention_of_torch(length, masked):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, length, 8, generator=generator)
    key, value = (torch.randn(2, 2, length, 8, generator=generator) for _ in range(2))
    owner = torch.arange(length)[None].expand(2, -1) // 5
    mask = train.same_document(owner) if masked else None
    ours, _ = attention.attend(None, query, key, value, mask, scaling=8**-0.5)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=not masked, enable_gqa=True
    )
    assert torch.allclose(ours.transpose(1, 2), theirs, atol=1e-5)


def test_an_exported_model_has_the_attention_that_transformers_chooses(tmp_path, packed, spelling):
    weights = model()
    source = batches.Documents.open(packed, {"tales": 1.0}, 5)
    train.train(
        weights,
        lambda step: source.batch(step, 2, 16),
        replace(SCHEDULE, steps=1),
        tmp_path,
        device="cpu",
        compiled=False,
    )
    export.export(weights, spelling, tmp_path / "Tiny", post_trained=False)
    assert "blocks" not in (tmp_path / "Tiny" / "config.json").read_text()
    assert type(weights).from_pretrained(tmp_path / "Tiny").config._attn_implementation == "sdpa"


def encoded(spelling, *conversations):
    return chats.encode(conversations, tokenizer.for_transformers(spelling, post_trained=True, context=64), 64)


def test_only_replies_are_learned_from_and_only_from_the_chosen_one_on(spelling):
    conversation = talk("t", "The cat sat?", "On the hill.", "The dog?", "On the roof.")
    ((ids, learned),) = encoded(spelling, conversation)
    assert (
        spelling.decode([int(i) for i in ids[learned]], skip_special_tokens=False)
        == "On the hill.<|im_end|>On the roof.<|im_end|>"
    )
    ((ids, learned),) = encoded(spelling, replace(conversation, learn_from=1))
    assert spelling.decode([int(i) for i in ids[learned]], skip_special_tokens=False) == "On the roof.<|im_end|>"


def test_conversations_that_share_a_row_do_not_see_each_other(spelling, packed):
    some = encoded(spelling, *(talk("t", f"The {x}?", "On the mat.") for x in ("cat", "dog", "hen", "fox")))
    source = chats.Chats(some, batches.Documents.open(packed, {"tales": 1.0}, 5), length=64, rows=2, replayed=1, seed=1)
    inputs, labels, owner, weight = source.batch(0)
    assert len(set(owner[0].tolist()) - {-1}) > 1
    weights = model().eval()
    loss = train.loss_function(weights, "cpu")
    alone = []
    for number in sorted(set(owner[0].tolist()) - {-1}):
        here = np.flatnonzero(owner[0] == number)
        part = loss(torch.from_numpy(inputs[:1, here]), torch.from_numpy(labels[:1, here]))
        alone.append((part.item(), float(weight[0, here].sum())))
    together = loss(*(torch.from_numpy(part[:1]) for part in (inputs, labels, owner, weight))).item()
    expected = sum(value * count for value, count in alone) / sum(count for _, count in alone)
    assert together == pytest.approx(expected, abs=0.02)  # bfloat16, and rotary positions that begin elsewhere


def test_a_text_counts_with_the_root_of_how_much_of_it_is_learned(spelling, packed):
    some = encoded(
        spelling, talk("t", "The cat?", "Yes."), talk("t", "The dog?", "On the mat and on the hill, on and on.")
    )
    source = chats.Chats(
        some, batches.Documents.open(packed, {"tales": 1.0}, 5), length=128, rows=2, replayed=1, seed=1
    )
    _, labels, owner, weight = source.batch(0)
    learned = labels != train.IGNORED
    assert not weight[~learned].any()
    sizes = {int(learned[0, owner[0] == number].sum()) for number in (0, 1)}
    assert sizes == {int(mask.sum()) for _, mask in some} and len(sizes) == 2
    for row, number in ((0, 0), (0, 1), (1, 0)):
        here = owner[row] == number
        assert weight[row, here].sum() == pytest.approx(np.sqrt(learned[row, here].sum()))


def test_every_conversation_is_in_one_row_of_every_epoch():
    sizes = np.random.default_rng(0).integers(5, 60, 200)
    some = [(np.zeros(size, dtype=np.int64), np.ones(size, dtype=bool)) for size in sizes]
    rows = chats.rows_of(some, 64, np.random.default_rng(1))
    assert sorted(i for row in rows for i in row) == list(range(200))
    assert all(sum(sizes[i] for i in row) <= 64 for row in rows)
    assert sum(sizes) / (64 * len(rows)) > 0.85


def test_a_batch_depends_on_its_step_alone(spelling, packed):
    some = encoded(spelling, *(talk("t", text, "On the mat.") for text in TEXTS))

    def make():
        return chats.Chats(
            some, batches.Documents.open(packed, {"tales": 1.0}, 5), length=64, rows=3, replayed=1, seed=1
        )

    forward, late = make(), make()
    batches_in_order = [forward.batch(step) for step in range(6)]
    assert all(np.array_equal(a, b) for a, b in zip(batches_in_order[5], late.batch(5), strict=True))


def test_encoded_conversations_survive_the_disk(spelling, tmp_path):
    some = encoded(spelling, *(talk("t", text, "On the mat.") for text in TEXTS))
    chats.save(some, tmp_path)
    for (ids, learned), (same_ids, same_learned) in zip(some, chats.load(tmp_path), strict=True):
        assert np.array_equal(ids, same_ids) and np.array_equal(learned, same_learned)


def test_without_a_name_every_stage_runs_in_order_and_an_unknown_one_is_refused(capsys):
    assert recipe.parse([]).stages == list(recipe.STAGES)
    assert recipe.parse(["export", "cards"]).stages == ["export", "cards"]
    with pytest.raises(SystemExit):
        recipe.parse(["exprot"])
    assert "there is no stage 'exprot'" in capsys.readouterr().err


def test_a_model_is_trained_further_from_the_one_of_an_earlier_pair_and_its_cost_is_added(tmp_path, spelling):
    earlier = model()
    export.export(earlier, spelling, tmp_path / "Tiny-Chat", post_trained=True)
    (tmp_path / "Tiny-Chat" / "README.md").write_text("---\ntraining_tokens: 900\ntraining_seconds: 60\n---\n# Card\n")
    stage, further = tmp_path / "work" / "posttrain", train.new_model(SHAPE, 300)
    recipe.begin_with(further, tmp_path / "Tiny-Chat", stage)
    same = dict(earlier.state_dict())
    assert all(torch.equal(value.bfloat16(), same[name].bfloat16()) for name, value in further.state_dict().items())
    train.Spent(100, 30.0, 4).write(stage)
    assert cards.total(tmp_path / "work", "posttrain") == train.Spent(1000, 90.0, 4)
    assert "had cost 900 tokens and 1 minutes" in cards.began(tmp_path / "work", "posttrain")


def test_a_machine_without_settings_for_it_does_not_train_further():
    arguments = recipe.parse(["posttrain", "--config", "gpu", "--start-from", "checkpoints"])
    with pytest.raises(SystemExit, match="leave --start-from out"):
        recipe.settings_of("posttrain", arguments, {"posttrain": {}})
    assert recipe.settings_of("posttrain", recipe.parse(["posttrain"]), {"posttrain": {"steps": 1}}) == {"steps": 1}


def test_only_the_models_that_were_trained_here_get_a_card_and_each_tells_its_own_cost(tmp_path):
    work, output = tmp_path / "work", tmp_path / "models"
    train.Spent(1000, 60.0, 10).write(work / "pretrain")
    train.Spent(200, 30.0, 4).write(work / "posttrain" / train.EARLY)
    (work / "voices.json").write_text("[]")
    for suffix in ("Base", "Early"):
        (output / f"Tiny-{suffix}").mkdir(parents=True)
    posttrain = {"replayed": 1, "rows": 8}
    machine = {"name": "Tiny", "vocabulary": 300, "model": SHAPE, "device": "cpu", "posttrain": posttrain}
    cards.write(work, output, machine, {"stories": 1.0})
    base, early = ((output / f"Tiny-{suffix}" / "README.md").read_text() for suffix in ("Base", "Early"))
    assert "Pre-training: 10 steps, 1,000 tokens, 1 minutes." in base and "Post-training" not in base
    assert "included: 4 steps, 200 tokens, 0 minutes. It began with the base model's weights." in early
    assert cards.cost_of(output / "Tiny-Early") == train.Spent(1200, 90.0)


def test_the_pair_that_is_measured_is_the_one_that_is_trained():
    machine = recipe.for_machine(recipe.configured(), "cpu")
    row = pairs.find_pair(pairs.known_pairs(Settings()), machine["pair"])
    suffixes = [suffix for _, suffix in cards.MODELS]
    assert {row.base, row.post} <= {f"{machine['name']}-{suffix}" for suffix in suffixes}
