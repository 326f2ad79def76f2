"""Models, tokenizers, precision and adapters: everything about a language model that its size changes.

Three sizes go through here: a tiny OPT from scratch, SmolLM2 (a Llama), opt-350m in 8 bit. Base weights are frozen and
loaded once; what is trained are LoRA adapters (Hu et al. 2021) of float32 beside them, so policy, reference and reward
models are adapters of one model, and switching between them costs nothing. An adapter is two files: adapter.safetensors
and adapter.json.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from engine.checkpoint import Preempted
from engine.errors import DataError, RetainError

if TYPE_CHECKING:
    from engine.stage import Workspace
    from tasks.config import Lora

# The artifact of `base`.
ABOUT, CONFIG, TOKENIZER, WEIGHTS = "model.json", "config.json", "tokenizer.json", "model.safetensors"
# An adapter's files.
ADAPTER, ADAPTER_ABOUT = "adapter.safetensors", "adapter.json"

ATTENTION = {"opt": ["q_proj", "k_proj", "v_proj", "out_proj"], "llama": ["q_proj", "k_proj", "v_proj", "o_proj"]}
FEED_FORWARD = {"opt": ["fc1", "fc2"], "llama": ["gate_proj", "up_proj", "down_proj"]}
HEAD = "score"  # of a reward model

# Padded tokens that go through a model at once where a gradient is taken. Rows of like length go together, so little of
# it is padding; a CPU is as fast with few, and what backward keeps stays small.
ROOM = {"cpu": 1024, "cuda": 8192}

# Bars of loading, a table of the head that is drawn here, a line for every product in 8 bit.
disable_progress_bar()
set_verbosity_error()
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

START = "<|im_start|>"

Bits = Literal[8, 16, 32]
Row = tuple[list[int], list[int]]  # the ids of a prompt and of its reply


class Diverged(RetainError):
    """Something is not a finite number."""


@dataclass(frozen=True)
class Text:
    """Words to ids and back. `style`: `chatml` as SmolLM2 was taught, or `plain` ("Human: ... Assistant:").

    Whatever a text spells, it is read as letters: a control token (`</s>`, `<|im_end|>`) has an effect only where it is
    put by its id, here.
    """

    tokenizer: PreTrainedTokenizerFast
    style: Literal["chatml", "plain"]
    pad: int
    eos: int
    context: int
    frame: tuple[int, ...] = ()  # what these weights were taught to read before a prompt, and nothing here gives them

    def __post_init__(self) -> None:
        # Published tokenizers don't mark every control token of theirs, and what isn't marked isn't taken apart.
        added = self.tokenizer.added_tokens_decoder.values()
        self.tokenizer.backend_tokenizer.add_special_tokens(
            [AddedToken(token.content, normalized=token.normalized, special=True) for token in added]
        )

    def prompt(self, text: str) -> list[int]:
        """Up to where the reply begins."""
        if self.style == "chatml":
            return [self._start, *self._ids(f"user\n{text}"), self.eos, *self._answer]
        return self._ids(f"Human: {text}\n\nAssistant:")

    def reply(self, text: str) -> list[int]:
        """With the end that it is to learn."""
        return [*self._ids(text if self.style == "chatml" else f" {text}"), self.eos]

    def decode(self, ids: Sequence[int]) -> str:
        """A reply up to its end."""
        ended = list(ids).index(self.eos) if self.eos in ids else len(ids)
        return str(self.tokenizer.decode(list(ids)[:ended], skip_special_tokens=True)).strip()

    def row(self, prompt: str, reply: str, room: int) -> Row:
        """Both in at most `room` tokens, as `rows` has them."""
        return self.rows(prompt, (reply,), room)[0]

    def rows(self, prompt: str, replies: Sequence[str], room: int) -> list[Row]:
        """Replies to one prompt, which is the same to all. What is too long loses the prompt's beginning, down to half
        of the room, then the reply's end, and with it the token that ends it: half a sentence is no whole one."""
        ids, answers = self.prompt(prompt), [self.reply(reply) for reply in replies]
        ids = ids[-max(room - max(map(len, answers)), room - room // 2) :]
        return [(ids, answer[: room - len(ids)]) for answer in answers]

    @cached_property
    def _start(self) -> int:
        """Of a turn, in the style `chatml`."""
        return int(self.tokenizer.convert_tokens_to_ids(START))

    @cached_property
    def _answer(self) -> tuple[int, ...]:
        return (*self._ids("\n"), self._start, *self._ids("assistant\n"))

    def _ids(self, text: str) -> list[int]:
        """Without any control token: `split_special_tokens` takes those apart that a text spells."""
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


@dataclass
class Lm:
    """Frozen weights with adapters, of which one or none is in use."""

    model: Any  # PeftModel once there is an adapter
    text: Text
    device: torch.device
    heads: dict[str, Tensor] = field(default_factory=dict)  # adapter -> (1, hidden) of a reward model

    @property
    def trunk(self) -> nn.Module:
        """(ids, mask) -> hidden states, without the head."""
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        trunk: nn.Module = model.model
        return trunk

    @property
    def head(self) -> nn.Module:
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        head: nn.Module = model.lm_head
        return head

    @property
    def width(self) -> int:
        """Of what the trunk gives: OPT may project it, so it isn't always the layers' own."""
        return int(self.head.in_features)  # type: ignore[arg-type]


def check_device(device: str) -> torch.device:
    """Raises RetainError at once where there is no such device: nothing is loaded before it."""
    if device == "cuda" and not torch.cuda.is_available():
        raise RetainError(
            "execution.device is cuda, and this machine has no GPU that torch can use. Run on a machine with one, or "
            "set execution.device: cpu in an experiment of your own"
        )
    if device == "cuda" and torch.cuda.device_count() > 1:
        raise RetainError(
            f"this machine shows {torch.cuda.device_count()} GPUs, over which trainers would spread a batch, so it "
            "would be another training. Set CUDA_VISIBLE_DEVICES=0 in the environment"
        )
    return torch.device(device)


def check_room(text: Text, tokens: int, key: str) -> None:
    """Raises RetainError for more tokens, as the experiment's `key` says, than the model reads."""
    if tokens > text.context:
        raise RetainError(f"{key}: {tokens} tokens are more than the {text.context} that the model reads; lower it")


def load_text(base: Path) -> Text:
    """The tokenizer of a `base` artifact."""
    about = read_about(base)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(base / TOKENIZER))
    return Text(tokenizer, about["style"], about["pad"], about["eos"], about["context"], tuple(about["own_prefix"]))


def load(base: Path, bits: Bits, device: str) -> Lm:
    """The causal language model of a `base` artifact, frozen, in its precision or in 8 bit."""
    where = check_device(device)
    return Lm(_weights(AutoModelForCausalLM, base, bits, where), load_text(base), where)


def load_reward(base: Path, bits: Bits, device: str, seed: int) -> Lm:
    """The same weights with a head that scores (b, t) ids as (b, 1); the head is drawn with `seed`.

    It is drawn small. SmolLM2's last states are 48 long and lie within 4 of each other: a head of length 1 begins with
    scores of about 2 for everything, and centring them, not telling two replies apart, would be most of a gradient.
    """
    where = check_device(device)
    text = load_text(base)
    model = _weights(AutoModelForSequenceClassification, base, bits, where, num_labels=1)
    model.config.pad_token_id = text.pad
    head = getattr(model, HEAD)
    drawn = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed)) / head.weight.shape[1]
    head.weight = nn.Parameter(drawn.to(where), requires_grad=False)
    return Lm(model, text, where)


def new_adapter(lm: Lm, lora: Lora, seed: int, name: str = "default") -> None:
    """Adds an adapter to be trained; B starts at 0 and A is drawn with `seed`, so it changes nothing yet."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _add(lm, _lora(lm, lora), name)
    lm.model.set_adapter(name)


def adapter_files(lm: Lm, lora: Lora, name: str = "default") -> dict[str, bytes]:
    """adapter.safetensors and adapter.json of a trained adapter; equal weights are equal bytes."""
    tensors = get_peft_model_state_dict(lm.model, adapter_name=name)
    content = {key: value.detach().cpu().contiguous().clone() for key, value in sorted(tensors.items())}
    about = {"r": lora.r, "alpha": lora.alpha, "dropout": lora.dropout, "targets": lora.targets}
    return {ADAPTER: write_tensors(content), ADAPTER_ABOUT: json.dumps(about, sort_keys=True).encode() + b"\n"}


def load_adapter(lm: Lm, folder: Path, name: str, *, trained: bool = False) -> Lora:
    """Adds the adapter of `folder`, a reward model's with its head; `trained`: it is to be trained on."""
    try:
        about = json.loads((folder / ADAPTER_ABOUT).read_bytes())
        lora = Shape(**about)
        tensors = read_tensors((folder / ADAPTER).read_bytes())
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise DataError(f"{folder.name}/{ADAPTER}: can't be read ({error}); run that stage again") from None
    for key in [key for key in tensors if f".{HEAD}." in key]:
        head = tensors.pop(key)
        if head.shape != (1, lm.width):
            raise DataError(f"{folder.name}/{ADAPTER}: its head is no head of these weights; run that stage again")
        lm.heads[name] = head.to(lm.device)
    with torch.random.fork_rng():
        _add(lm, _lora(lm, lora), name)
    set_tensors(lm, tensors, name)
    _train(lm, name, trained)
    lm.model.train(trained)  # dropout off where nothing is trained: a new adapter comes with it on
    return lora  # type: ignore[return-value]


def set_tensors(lm: Lm, tensors: dict[str, Tensor], name: str) -> None:
    """Raises DataError unless they are this model's, all of them: what one lacked would stay as it was drawn."""
    own = get_peft_model_state_dict(lm.model, adapter_name=name)
    shapes = [{key: tuple(value.shape) for key, value in named.items()} for named in (own, tensors)]
    if odd := sorted(key for key, _ in shapes[0].items() ^ shapes[1].items()):
        raise DataError(f"adapter {name}: {odd[0]} is no tensor of these weights, or lacks; run that stage again")
    set_peft_model_state_dict(lm.model, tensors, adapter_name=name)


def active(lm: Lm) -> str:
    """The adapter in use."""
    return str(lm.model.base_model.active_adapters[0])


def use(lm: Lm, name: str) -> None:
    """Puts an adapter in use, for good. What is to be trained is what load_adapter and new_adapter said."""
    trained = {key for key, value in lm.model.named_parameters() if value.requires_grad}
    lm.model.base_model.set_adapter(name)
    for key, value in lm.model.named_parameters():
        value.requires_grad_(key in trained)


@contextmanager
def using(lm: Lm, name: str) -> Iterator[None]:
    """With another adapter in use."""
    before = active(lm)
    use(lm, name)
    try:
        yield
    finally:
        use(lm, before)


@contextmanager
def interruptible(lm: Lm, workspace: Workspace) -> Iterator[None]:
    """Preempted is raised at the next layer, forward or backward. A whole pass is too long to wait for: with three
    trainings on two cores a group of SFT's took SmolLM2 11.4 s, 18.8 s at most, and a notice leaves 10."""

    def check(*_: object) -> None:
        if workspace.should_stop():
            raise Preempted

    def watch(_layer: nn.Module, _arguments: object, out: Tensor | tuple[Tensor, ...]) -> None:
        check()
        hidden = out if isinstance(out, Tensor) else out[0]
        if hidden.requires_grad:
            hidden.register_hook(check)  # type: ignore[no-untyped-call]

    layers = next(part for part in lm.trunk.modules() if isinstance(part, nn.ModuleList))
    hooks = [layer.register_forward_hook(watch) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Shape:
    """What an adapter.json says; the same names as the experiment's."""

    r: int
    alpha: int
    dropout: float
    targets: str


def pad_right(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), both (b, t)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, mask


def by_length(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Places 0, 1, ... in groups of like length, the shortest first, each of at most `room` tokens when padded."""
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if not groups or (len(groups[-1]) + 1) * lengths[place] > room:
            groups.append([])
        groups[-1].append(place)
    return groups


def passes(lm: Lm, rows: Sequence[Row]) -> list[list[int]]:
    """Which rows go through the model together."""
    return by_length([sum(map(len, row)) for row in rows], ROOM[lm.device.type])


def log_probs(lm: Lm, rows: Sequence[Row], temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Of every token of the replies, in one row after another: log-probability, entropy (nats), hidden state before it.

    Flat, (sum of reply lengths, ...): the head, 49,152 wide in SmolLM2, sees no token of a prompt and no padding.
    """
    hidden, places = _hidden(lm, rows)
    states = hidden[places[:, 0], places[:, 1]]
    logits = lm.head(states).float()
    if temperature != 1:
        logits = logits / temperature
    wanted = torch.tensor([token for _, reply in rows for token in reply], device=lm.device)
    total = logits.logsumexp(-1)
    with torch.no_grad():  # for the traces alone: nothing is trained on it
        entropy = total - (logits * (logits - total[:, None]).exp_()).sum(-1)
    return logits.gather(1, wanted[:, None])[:, 0] - total, entropy, states.float()


def losses(lm: Lm, rows: Sequence[Row]) -> Tensor:
    """Cross-entropy (nats) of every token of the replies, flat, in one row after another: what log_probs negates,
    without what only sampling needs."""
    hidden, places = _hidden(lm, rows)
    logits = lm.head(hidden[places[:, 0], places[:, 1]]).float()
    wanted = torch.tensor([token for _, reply in rows for token in reply], device=lm.device)
    return nn.functional.cross_entropy(logits, wanted, reduction="none")


def _hidden(lm: Lm, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Hidden states (b, t, h), and (n, 2): the row and place from which each token of a reply is foretold."""
    ids, mask = pad_right([[*prompt, *reply] for prompt, reply in rows], lm.text.pad, lm.device)
    hidden = lm.trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    places = [(i, len(p) - 1 + k) for i, (p, reply) in enumerate(rows) for k in range(len(reply))]
    return hidden, torch.tensor(places, device=lm.device)


@torch.no_grad()
def scores(lm: Lm, name: str, rows: Sequence[Row]) -> Tensor:
    """(n,) float32 on the CPU: what the reward model `name` thinks of each prompt with its reply."""
    values = torch.zeros(len(rows))
    with using(lm, name):
        for chosen in passes(lm, rows):
            ids, mask = pad_right([[*rows[i][0], *rows[i][1]] for i in chosen], lm.text.pad, lm.device)
            hidden = lm.trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(chosen), device=lm.device), mask.sum(1) - 1].float()
            values[chosen] = (last @ lm.heads[name].float().T)[:, 0].cpu()
    return values


def read_about(base: Path) -> dict[str, Any]:
    """model.json of a `base` artifact: model, architecture, precision, style, pad, eos, own_prefix, context, ..."""
    try:
        about: dict[str, Any] = json.loads((base / ABOUT).read_bytes())
        return about
    except (OSError, ValueError) as error:
        raise DataError(f"base/{ABOUT}: can't be read ({error}); run `base` again") from None


def _weights(kind: Any, base: Path, bits: Bits, device: torch.device, **more: Any) -> PreTrainedModel:
    published = read_about(base)["precision"]
    if bits == 16 and published == "float32":
        raise RetainError(
            "bits: 16 of this stage, but stages.base.precision is float32, so it would run in 32 bits. Set bits: 32, "
            "or stages.base.precision: bfloat16"
        )
    precision = torch.float32 if bits == 32 else getattr(torch, published)
    if device.type == "cpu":
        # The backward pass of torch's own attention is slow there: a quarter of an update of SmolLM2.
        more["attn_implementation"] = "eager"
    if bits == 8:
        more["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", HEAD])
        more["device_map"] = {"": str(device)}
    model = kind.from_pretrained(base, dtype=precision, local_files_only=True, use_safetensors=True, **more)
    model.requires_grad_(False)
    model.eval()
    return model if bits == 8 else model.to(device)


def _lora(lm: Lm, lora: Any) -> LoraConfig:
    kind = lm.model.config.model_type
    reward = hasattr(lm.model.get_base_model() if isinstance(lm.model, PeftModel) else lm.model, HEAD)
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=ATTENTION[kind] + (FEED_FORWARD[kind] if lora.targets == "all" else []),
        task_type="SEQ_CLS" if reward else "CAUSAL_LM",
        modules_to_save=[HEAD] if reward else None,
    )


def _add(lm: Lm, config: LoraConfig, name: str) -> None:
    if isinstance(lm.model, PeftModel):
        lm.model.add_adapter(name, config)
    else:
        lm.model = get_peft_model(lm.model, config, adapter_name=name)


def _train(lm: Lm, name: str, trained: bool) -> None:
    for key, value in lm.model.named_parameters():
        if f".{name}." in key:
            value.requires_grad_(trained)
