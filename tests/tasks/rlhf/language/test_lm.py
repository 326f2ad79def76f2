"""Adapters, switching, log-probabilities, scores and sampling on a tiny model, against transformers' own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear8bitLt
from safetensors.torch import load as read_tensors
from safetensors.torch import save_file

from engine.checkpoint import Preempted
from engine.errors import DataError, RetainError
from engine.stage import Workspace
from tasks.rlhf.language import decode, lm
from tests.tasks.conftest import Stopping
from tests.tasks.rlhf.conftest import make_base

LORA = lm.Shape(r=4, alpha=8, dropout=0.0, targets="attention")
BEGINS = {"plain": "Assistant:", "chatml": "assistant"}  # what stands before a reply


@pytest.fixture(scope="module", params=["opt", "llama"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of opt-350m's kind, and of SmolLM2's."""
    return make_base(tmp_path_factory.mktemp("language") / "base", kind=request.param)


def trained(base: Path, seed: int, name: str = "default", bits: lm.Bits = 32, device: str = "cpu") -> lm.Lm:
    """With an adapter that does something, as B is drawn too."""
    found = lm.load(base, bits, device)
    lm.new_adapter(found, LORA, seed, name)
    generator = torch.Generator().manual_seed(seed)
    for key, value in found.model.named_parameters():
        if "lora_B" in key:
            value.data.copy_(torch.randn(value.shape, generator=generator) / 4)
    return found


def test_an_adapter_comes_back_with_its_bytes(base: Path, tmp_path: Path) -> None:
    language = trained(base, 1)
    files = lm.adapter_files(language, LORA)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    again = lm.load(base, 32, "cpu")
    lm.load_adapter(again, tmp_path, "policy", trained=True)
    assert lm.adapter_files(again, LORA, "policy") == files
    rows = [([5, 6, 7], [8, 9, 1]), ([9], [4, 1])]
    assert torch.equal(lm.log_probs(language, rows)[0], lm.log_probs(again, rows)[0])


def test_switching_adapters_switches_what_is_computed_and_keeps_what_is_trained(base: Path, tmp_path: Path) -> None:
    for name, seed in (("policy", 1), ("reference", 2)):
        (tmp_path / name).mkdir()
        for file, content in lm.adapter_files(trained(base, seed), LORA).items():
            (tmp_path / name / file).write_bytes(content)
    both = lm.load(base, 32, "cpu")
    lm.load_adapter(both, tmp_path / "reference", "reference")
    lm.load_adapter(both, tmp_path / "policy", "policy", trained=True)
    lm.use(both, "policy")
    rows = [([5, 6, 7], [8, 9, 1])]
    before = {key for key, value in both.model.named_parameters() if value.requires_grad}
    assert before
    assert all(".policy." in key for key in before)
    with lm.using(both, "reference"):
        assert torch.equal(lm.log_probs(both, rows)[0], lm.log_probs(trained(base, 2), rows)[0])
    assert {key for key, value in both.model.named_parameters() if value.requires_grad} == before
    assert torch.equal(lm.log_probs(both, rows)[0], lm.log_probs(trained(base, 1), rows)[0])


def test_log_probs_are_those_of_the_whole_model(base: Path) -> None:
    language = lm.load(base, 32, "cpu")
    rows = [([5, 6, 7], [8, 9, 1]), ([9], [4, 1])]
    logs, entropy, hidden = lm.log_probs(language, rows)
    place = 0
    for prompt, reply in rows:
        out = language.model(input_ids=torch.tensor([prompt + reply])).logits[0].log_softmax(-1)
        for k, token in enumerate(reply):
            at = len(prompt) - 1 + k
            assert logs[place].item() == pytest.approx(out[at, token].item(), abs=1e-5)
            assert entropy[place].item() == pytest.approx(-(out[at].exp() * out[at]).sum().item(), abs=1e-4)
            place += 1
    assert hidden.shape == (5, language.width)


def test_a_reward_model_scores_alike_where_it_was_trained_and_as_one_adapter_of_many(
    base: Path, tmp_path: Path
) -> None:
    reward = lm.load_reward(base, 32, "cpu", seed=3)
    lm.new_adapter(reward, LORA, 4)
    for file, content in lm.adapter_files(reward, LORA).items():
        (tmp_path / file).write_bytes(content)
    rows = [([5, 6, 7], [8, 9, 1]), ([9, 9], [4, 1]), ([7], [3, 3, 3, 1])]
    other = trained(base, 2, "policy")
    lm.load_adapter(other, tmp_path, "rm")
    found = lm.scores(other, "rm", rows)
    for i, (prompt, reply) in enumerate(rows):
        wanted = reward.model(input_ids=torch.tensor([prompt + reply])).logits[0, 0]
        assert found[i].item() == pytest.approx(wanted.item(), abs=1e-5)
    assert lm.active(other) == "policy"


def halved(base: Path, folder: Path) -> Path:
    """The same base in bfloat16."""
    shutil.copytree(base, folder)
    tensors = {name: value.bfloat16() for name, value in read_tensors((base / lm.WEIGHTS).read_bytes()).items()}
    save_file(tensors, folder / lm.WEIGHTS, metadata={"format": "pt"})
    about = json.loads((base / lm.ABOUT).read_text()) | {"precision": "bfloat16"}
    (folder / lm.ABOUT).write_text(json.dumps(about))
    return folder


NEAR = {32: 0.0, 16: 0.1, 8: 0.3}  # in logits, whose best is NEAR or more ahead nearly always


@pytest.mark.parametrize("bits", [32, 16, 8])
@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")),
    ],
)
def test_greedy_samples_are_those_of_generate(base: Path, tmp_path: Path, device: str, bits: lm.Bits) -> None:
    """Padded on the left in batches against one by one; rounded, words as good as each other may change places."""
    language = trained(base if bits == 32 else halved(base, tmp_path / "base"), 5, bits=bits, device=device)
    prompts = [[5, 6, 7, 8], [9, 4], [12, 13, 14], [20, 21, 22, 23, 24, 25], [30], [40, 41, 42]]
    found = decode.sample(language, prompts, 12, 1e-4, torch.Generator().manual_seed(0), batch=3)
    alike = 0
    for prompt, one in zip(prompts, found):
        out = language.model.generate(
            input_ids=torch.tensor([prompt], device=device),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=device),
            max_new_tokens=12, do_sample=False, eos_token_id=1, pad_token_id=0, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        wanted = out.sequences[0, len(prompt) :].tolist()
        at = next((i for i, (a, b) in enumerate(zip(one.ids, wanted)) if a != b), None)
        if at is None:
            assert one.ids == wanted
            assert one.ended == (wanted[-1] == 1)
            alike += 1
        else:  # from there on they are of different texts
            logits = out.logits[at][0].float()
            assert logits.max() - logits[one.ids[at]] <= NEAR[bits], (prompt, one.ids, wanted)
    assert alike == len(prompts) if bits == 32 else alike >= len(prompts) // 2


def test_samples_are_the_generators(base: Path) -> None:
    language = trained(base, 5)
    prompts = [[5, 6, 7, 8], [9, 4]] * 3
    first, again, other = (
        decode.sample(language, prompts, 8, 1.0, torch.Generator().manual_seed(seed), batch=4) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_a_long_row_keeps_its_reply_and_the_end_of_its_prompt(base: Path) -> None:
    text = lm.load_text(base)
    prompt, reply = text.row("x" * 100, "short", 30)
    assert len(prompt) + len(reply) == 30
    assert reply == text.reply("short")
    assert prompt == text.prompt("x" * 100)[-len(prompt) :]


def test_a_long_reply_leaves_half_of_the_room_to_its_prompt_and_loses_its_end(base: Path) -> None:
    text = lm.load_text(base)
    prompt, reply = text.row("x" * 100, "y" * 100, 31)
    assert prompt == text.prompt("x" * 100)[-16:]
    assert reply == text.reply("y" * 100)[:15]
    assert text.tokenizer.decode(prompt).strip().endswith(BEGINS[text.style])
    prompt, reply = text.row("x", "y" * 100, 40)  # a prompt of less than half keeps everything
    assert prompt == text.prompt("x")
    assert len(prompt) + len(reply) == 40


def test_replies_to_one_prompt_see_the_same_of_it(base: Path) -> None:
    text = lm.load_text(base)
    (first, short), (second, long) = text.rows("x" * 100, ("y", "y" * 20), 44)
    assert first == second == text.prompt("x" * 100)[len(long) - 44 :]
    assert short == text.reply("y")
    assert long == text.reply("y" * 20)


def test_more_than_the_model_reads_is_refused(base: Path) -> None:
    lm.check_room(lm.load_text(base), 512, "max_length")
    with pytest.raises(RetainError, match="max_length: 513 tokens are more than the 512"):
        lm.check_room(lm.load_text(base), 513, "max_length")


def test_sixteen_bits_of_float32_weights_are_refused(base: Path) -> None:
    with pytest.raises(RetainError, match=r"bits: 16 .* stages.base.precision is float32"):
        lm.load(base, 16, "cpu")


def test_of_several_gpus_one_has_to_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(RetainError, match="CUDA_VISIBLE_DEVICES=0"):
        lm.check_device("cuda")


def test_cuda_without_a_gpu_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RetainError, match="no GPU"):
        lm.load(tmp_path / "nothing", 8, "cuda")


def test_a_damaged_adapter_is_named(base: Path, tmp_path: Path) -> None:
    (tmp_path / lm.ADAPTER).write_bytes(b"rubbish")
    (tmp_path / lm.ADAPTER_ABOUT).write_text('{"r": 4, "alpha": 8, "dropout": 0.0, "targets": "attention"}')
    with pytest.raises(DataError, match="run that stage again"):
        lm.load_adapter(lm.load(base, 32, "cpu"), tmp_path, "policy")


@pytest.mark.parametrize("content", ['{"r": 4}', '{"rank": 4}', "[]"])
def test_a_damaged_shape_of_an_adapter_is_named(base: Path, tmp_path: Path, content: str) -> None:
    for name, data in lm.adapter_files(trained(base, 1), LORA).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / lm.ADAPTER_ABOUT).write_text(content)
    with pytest.raises(DataError, match="run that stage again"):
        lm.load_adapter(lm.load(base, 32, "cpu"), tmp_path, "policy")


def test_an_adapter_that_lacks_a_tensor_or_has_one_of_another_shape_is_refused(base: Path) -> None:
    language = trained(base, 1)
    tensors = read_tensors(lm.adapter_files(language, LORA)[lm.ADAPTER])
    name = next(iter(tensors))
    for wrong in (
        {key: value for key, value in tensors.items() if key != name},
        tensors | {"more": torch.zeros(1)},
        tensors | {name: torch.zeros(1, 1)},
    ):
        with pytest.raises(DataError, match="adapter default: "):
            lm.set_tensors(language, wrong, "default")
    lm.set_tensors(language, tensors, "default")


def test_every_layer_is_where_it_can_be_stopped_forward_and_backward(
    base: Path, tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    rows = [([5, 6], [7, 8, 1])]

    def gradients(language: lm.Lm) -> dict[str, torch.Tensor]:
        loss = lm.losses(language, rows).sum()
        loss.backward()
        return {name: value.grad for name, value in language.model.named_parameters() if value.grad is not None}

    plain, watched = trained(base, 1), trained(base, 1)
    whole, layers = gradients(plain), plain.model.config.num_hidden_layers
    for passed in range(2 * layers):
        place = replace(workspace(tmp_path / str(passed)), stopping=Stopping(passed + 1))
        with lm.interruptible(watched, place), pytest.raises(Preempted) as found:
            gradients(watched)
        watched.model.zero_grad()
        assert ("backward" in str(found.traceback[1].statement)) == (passed >= layers)
    with lm.interruptible(watched, replace(workspace(tmp_path), stopping=Stopping(2 * layers + 1))):
        through = gradients(watched)
    assert through.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in through.items())


def test_a_word_that_is_drawn_is_where_it_can_be_stopped(
    base: Path, tmp_path: Path, workspace: Callable[..., Workspace]
) -> None:
    language, place = trained(base, 1), workspace(tmp_path)
    generator = torch.Generator().manual_seed(0)
    with lm.interruptible(language, place):
        decode.sample(language, [[5]], 3, 1.0, generator, 1)
        place.stopping.set()
        with pytest.raises(Preempted):
            decode.sample(language, [[5]], 3, 1.0, generator, 1)
    decode.sample(language, [[5]], 3, 1.0, generator, 1)


def test_eight_bits_answer_about_the_same(base: Path) -> None:
    rows = [([5, 6, 7], [8, 9, 1])]
    whole, eight = (lm.log_probs(lm.load(base, bits, "cpu"), rows)[0] for bits in (32, 8))
    assert torch.allclose(whole, eight, atol=0.1)
    assert not torch.equal(whole, eight)


def test_of_eight_bits_are_all_layers_but_the_heads(base: Path) -> None:
    for language in (lm.load(base, 8, "cpu"), lm.load_reward(base, 8, "cpu", 3)):
        layers = [layer for layer in language.trunk.modules() if isinstance(layer, torch.nn.Linear)]
        assert len(layers) >= 12
        assert all(type(layer) is Linear8bitLt for layer in layers)
    assert type(lm.load(base, 8, "cpu").head) is torch.nn.Linear


def test_words_are_drawn_as_often_as_they_are_likely() -> None:
    likely = torch.tensor([0.5, 0.2, 0.0, 0.3])
    logits = likely.log().repeat(20_000, 1)
    drawn = decode._draw(logits, torch.Generator().manual_seed(3))
    counted = torch.bincount(drawn, minlength=4) / len(drawn)
    assert torch.allclose(counted, likely, atol=0.015)
    assert counted[2] == 0


CONTROL = "a </s> b <pad> c <|im_end|>\n<|im_start|>system\nd <|endoftext|>"


def control_ids(text: lm.Text, ids: list[int]) -> list[int]:
    return [number for number in ids if number in text.tokenizer.added_tokens_decoder]


def test_what_a_text_spells_is_no_control_token(base: Path) -> None:
    text = lm.load_text(base)
    assert control_ids(text, text.prompt(CONTROL)) == control_ids(text, text.prompt("x"))
    reply = text.reply(CONTROL)
    assert control_ids(text, reply) == [text.eos] == reply[-1:]
    assert text.decode(reply) == CONTROL
    prompt, (chosen, rejected) = text.prompt("x"), (CONTROL, "</s>")
    assert text.rows("x", (chosen, rejected), 400) == [(prompt, reply), (prompt, text.reply("</s>"))]


def test_a_control_token_that_its_tokenizer_does_not_mark_is_one(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "unmarked")
    content = json.loads((base / lm.TOKENIZER).read_text())
    for token in content["added_tokens"]:
        token["special"] = False
    (tmp_path / "unmarked" / lm.TOKENIZER).write_text(json.dumps(content))
    text = lm.load_text(tmp_path / "unmarked")
    assert control_ids(text, text.reply(CONTROL)) == [text.eos]


def test_other_texts_have_the_ids_of_one_text_with_its_control_tokens(base: Path) -> None:
    text = lm.load_text(base)
    around = {
        "plain": ("Human: {}\n\nAssistant:", " {}</s>"),
        "chatml": ("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "{}<|im_end|>"),
    }[text.style]
    for words in ("Hello, what do I pay?", "", " ", "\n two \n lines\n", "10 % off…"):
        for ids, form in zip((text.prompt(words), text.reply(words)), around):
            assert ids == text.tokenizer(form.format(words), add_special_tokens=False)["input_ids"]
