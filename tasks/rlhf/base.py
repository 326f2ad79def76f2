"""`base`: the weights and the tokenizer that everything is trained from.

Four ways to get them, one artifact: trained here from nothing (`scratch`), drawn (`random`), out of a GGUF file in an
installed Python package (`package`), or as they are published (`hub`). In the artifact the weights are safetensors in
the experiment's precision; 8 bit is made of them when they are loaded.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import save as write_tensors
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, OPTConfig, PreTrainedTokenizerFast

from engine.errors import DataError
from tasks.public_tables import DIALOGUES
from tasks.rlhf.language import lm, scratch, upstream
from tasks.rlhf.language.losses import training_loss
from tasks.rlhf.prompt_tables import TARGETS

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import BaseConfig

PAD, EOS = "<pad>", "</s>"
# What a published configuration holds of the place and the version that wrote it.
PASSING = ("_name_or_path", "_model_name_or_path", "quantization_config", "transformers_version", "torch_dtype")

Style = Literal["plain", "chatml"]


def run(config: BaseConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes model.json, config.json, tokenizer.json, model.safetensors and curves.parquet."""
    torch.set_num_threads(workspace.threads)
    lm.check_device(workspace.device)
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    source = inputs.get("source", Path())
    if config.tokenizer == "own":
        tokenizer, frame = _published_tokenizer(config, source)
    else:
        frame = []
        tokenizer = byte_bpe(_texts(inputs), config.shape.vocab_size if config.shape else 0)
    style, pad, eos = _specials(tokenizer, config.model)
    settings = _settings(config, source, pad, eos)
    metrics: Metrics = {}
    losses: list[float] = []
    if config.weights == "scratch":
        model = _drawn(settings, workspace.seed, torch.float32).to(workspace.device)
        text = lm.Text(_fast(tokenizer), style, pad, eos, settings.max_position_embeddings)
        losses, metrics = _train(config, model, text, inputs, workspace)
    elif config.weights == "random":
        model = _drawn(settings, workspace.seed, getattr(torch, config.precision))
    elif config.weights == "package":
        folder, name = _gguf(config, source)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
        settings = model.config
    else:
        model = _published(config, source, settings, workspace.scratch)
    if tokenizer.get_vocab_size() > settings.vocab_size:
        raise DataError(
            f"{config.model}: its tokenizer knows {tokenizer.get_vocab_size():,} tokens, its weights "
            f"{settings.vocab_size:,}. They do not belong together"
        )
    tensors = _write(config, model, tokenizer, (style, pad, eos), frame, workspace)
    _write_curves(losses, tensors, workspace)
    parameters = sum(size for _, size in tensors)
    return {"parameters": {"value": float(parameters)}} | metrics


def byte_bpe(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE of at most `vocabulary` tokens: fewer where the texts hold no more pairs that repeat."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _pairs(dialogues: Path, part: str) -> list[tuple[str, str]]:
    rows = upstream.read(dialogues, DIALOGUES)
    return [(row["prompt"], row["response"]) for row in rows if row["split"] == part]


def _messages(prompts: Path, part: str) -> list[tuple[str, str]]:
    rows = upstream.read(prompts, TARGETS)
    return [(row["prompt"], row["response"]) for row in rows if row["part"] == part]


def _texts(inputs: Mapping[str, Path]) -> list[str]:
    pairs = _pairs(inputs["dialogues"], "train") + _messages(inputs["prompts"], "train")
    return [text for pair in pairs for text in pair]


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _train(
    config: BaseConfig, model: Any, text: lm.Text, inputs: Mapping[str, Path], workspace: Workspace
) -> tuple[list[float], Metrics]:
    """Losses by step, and metrics; writes evidence/held_out.parquet."""
    assert config.pretraining is not None
    read = {"dialogues": _pairs, "prompts": _messages}
    dialogues, messages = (pairs(inputs[name], "train") for name, pairs in read.items())
    losses = scratch.train(config.pretraining, model, text, dialogues, messages, workspace)
    unseen = {
        name: scratch.held_out(config.pretraining, model, text, pairs(inputs[name], "validation"))
        for name, pairs in read.items()
    }
    rows = [(name, block, loss) for name, block_losses in unseen.items() for block, loss in enumerate(block_losses)]
    workspace.out.parquet("evidence/held_out.parquet", dict(zip(("text", "block", "loss"), map(list, zip(*rows)))))
    return losses, {
        "training_loss": training_loss(losses),
        "held_out_loss": {"value": float(np.mean(unseen["dialogues"]))},
        "held_out_loss_messages": {"value": float(np.mean(unseen["prompts"]))},
    }


def _settings(config: BaseConfig, source: Path, pad: int, eos: int) -> Any:
    """The model's configuration by its shape, or the published one; that of a package is in its weights."""
    if config.weights == "package":
        return None
    if config.shape is None:
        try:
            return AutoConfig.for_model(**json.loads((source / lm.CONFIG).read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{config.model}/{lm.CONFIG}: can't be read ({error}). Give it with the weights, "
                "or state stages.base.shape"
            ) from None
    # A dropout in the base would be drawn in every forward pass of the trainings to come.
    return OPTConfig(
        **dict(config.shape),
        pad_token_id=pad,
        bos_token_id=eos,
        eos_token_id=eos,
        dropout=0.0,
        attention_dropout=0.0,
        layerdrop=0.0,
    )


def _drawn(settings: Any, seed: int, precision: torch.dtype) -> Any:
    """Random weights, drawn in their precision: opt-350m's take 0.7 GB of memory and not 1.3."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(settings, dtype=precision)


def _published(config: BaseConfig, source: Path, settings: Any, scratch_folder: Path) -> Any:
    """Weights of safetensors files, each tensor of the configuration's shape."""
    folder = scratch_folder / "published"
    folder.mkdir()
    settings.save_pretrained(folder)
    for file in config.files:
        if file.name not in (lm.CONFIG, lm.TOKENIZER):
            (folder / file.name).symlink_to((source / file.name).resolve())
    where = f"{config.model}/{lm.WEIGHTS}"
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, config.precision),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{where}: no weights of this shape ({str(error).splitlines()[0]}). Get them again") from None
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("lm_head"))
    if missing:
        raise DataError(f"{where}: lacks {missing[0]} and {len(missing) - 1} more tensors of this shape. Get it again")
    return model


def _gguf(config: BaseConfig, source: Path) -> tuple[Path, str]:
    path = source / config.files[0].name
    return path.parent, path.name


def _published_tokenizer(config: BaseConfig, source: Path) -> tuple[Tokenizer, list[int]]:
    """With the ids that it puts before a prompt of its own accord."""
    if config.weights == "package":
        folder, name = _gguf(config, source)
        found = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        return found.backend_tokenizer, own_prefix(found.backend_tokenizer, found)
    try:
        tokenizer = Tokenizer.from_file(str(source / lm.TOKENIZER))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{config.model}/{lm.TOKENIZER}: no tokenizer ({error}). Get it again") from None
    return tokenizer, own_prefix(tokenizer)


def own_prefix(tokenizer: Tokenizer, chat: Any = None) -> list[int]:
    """OPT's post-processor begins every text with </s>, SmolLM2's chat template with a system turn. Nobody here trains
    or asks with them, but the untouched weights are used to them."""
    if chat is not None and chat.chat_template:
        turn = [{"role": "user", "content": "?"}]
        before, found, _ = chat.apply_chat_template(turn, tokenize=False).partition("<|im_start|>user\n?")
        return list(tokenizer.encode(before, add_special_tokens=False).ids) if found else []
    with_it, without = tokenizer.encode("a").ids, tokenizer.encode("a", add_special_tokens=False).ids
    return list(with_it[: with_it.index(without[0])])


def _specials(tokenizer: Tokenizer, model: str) -> tuple[Style, int, int]:
    """Style, padding and end. The two differ: an end that is padding would never be learned."""
    if tokenizer.token_to_id("<|im_start|>") is not None:
        style: Style = "chatml"
        ends, paddings = ["<|im_end|>"], ["<|endoftext|>", PAD]
    else:
        style = "plain"
        ends, paddings = [EOS, "<|endoftext|>"], [PAD, "<|endoftext|>", "<unk>"]
    end = next((token for token in map(tokenizer.token_to_id, ends) if token is not None), None)
    pad = next((token for token in map(tokenizer.token_to_id, paddings) if token not in (None, end)), None)
    if end is None or pad is None:
        raise DataError(
            f"{model}/{lm.TOKENIZER}: has no token for the end of a text ({', '.join(ends)}) or for padding"
        )
    return style, pad, end


def _write(
    config: BaseConfig,
    model: Any,
    tokenizer: Tokenizer,
    specials: tuple[Style, int, int],
    frame: list[int],
    workspace: Workspace,
) -> list[tuple[str, int]]:
    """The files of the artifact; name and size of every tensor."""
    style, pad, eos = specials
    settings = {key: value for key, value in model.config.to_dict().items() if key not in PASSING}
    settings |= {"pad_token_id": pad, "eos_token_id": eos, "dtype": config.precision}
    precision = getattr(torch, config.precision)
    # Where the head is the embedding, it is written once.
    tied = "lm_head.weight" if settings.get("tie_word_embeddings", True) else ""
    tensors = {
        name: value.detach().to("cpu", precision).contiguous()
        for name, value in sorted(model.state_dict().items())
        if name != tied
    }
    workspace.out.bytes(lm.WEIGHTS, write_tensors(tensors, metadata={"format": "pt"}))
    workspace.out.json(lm.CONFIG, settings)
    workspace.out.bytes(lm.TOKENIZER, tokenizer.to_str().encode())
    sizes = [(name, value.numel()) for name, value in tensors.items()]
    about = {
        "model": config.model,
        "architecture": settings["model_type"],
        "weights": config.weights,
        "precision": config.precision,
        "style": style,
        "pad": pad,
        "eos": eos,
        "own_prefix": frame,
        "context": settings["max_position_embeddings"],
        "parameters": sum(size for _, size in sizes),
    }
    workspace.out.json(lm.ABOUT, about)
    return sizes


def _write_curves(losses: list[float], tensors: list[tuple[str, int]], workspace: Workspace) -> None:
    workspace.out.parquet(
        "evidence/tensors.parquet", {"tensor": [name for name, _ in tensors], "parameters": [n for _, n in tensors]}
    )
    layers: dict[int, int] = {}
    for name, size in tensors:
        layer = next((int(part) for part in name.split(".") if part.isdigit()), -1)  # -1: embeddings and the like
        layers[layer] = layers.get(layer, 0) + size
    steps = [("training_loss", step + 1, loss) for step, loss in enumerate(losses)]
    rows = steps + [("parameters_of_layer", layer, float(size)) for layer, size in sorted(layers.items())]
    workspace.out.parquet(
        "curves.parquet", {key: [row[k] for row in rows] for k, key in enumerate(("curve", "x", "y"))}
    )
