"""A base of a few thousand weights, drawn by seed: enough to see that the code is right, not that it learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig, PreTrainedConfig

from tasks.rlhf.language import lm


def make_base(folder: Path, seed: int = 0, hidden: int = 32, layers: int = 2, kind: str = "opt") -> Path:
    """The files of a `base` artifact, random weights over bytes: an OPT of opt-350m's kind, whose head is not as wide
    as its layers, or a `llama` of SmolLM2's, which is asked as a chat."""
    folder.mkdir(parents=True, exist_ok=True)
    marks = ["<pad>", "</s>"] if kind == "opt" else ["<pad>", "<|im_end|>", "<|im_start|>"]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["a few words to begin with"], vocab_size=300, special_tokens=marks)
    tokenizer.save(str(folder / lm.TOKENIZER))
    torch.manual_seed(seed)
    shared = {
        "vocab_size": 300,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    config: PreTrainedConfig
    if kind == "opt":
        config = OPTConfig(
            **shared,
            ffn_dim=2 * hidden,
            num_attention_heads=2,
            word_embed_proj_dim=hidden // 2,
            do_layer_norm_before=False,
            init_std=0.2,  # through one product more, words would else hardly be apart, whatever an adapter does
            dropout=0.0,
        )
    else:
        config = LlamaConfig(
            **shared,
            intermediate_size=2 * hidden,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
            tie_word_embeddings=True,
        )
    model = AutoModelForCausalLM.from_config(config)
    config.save_pretrained(folder)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, folder / lm.WEIGHTS, metadata={"format": "pt"})
    about = {
        "model": "test",
        "architecture": kind,
        "precision": "float32",
        "style": "plain" if kind == "opt" else "chatml",
        "pad": 0,
        "eos": 1,
        "own_prefix": [],
        "context": 512,
        "parameters": model.num_parameters(),
    }
    (folder / lm.ABOUT).write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("language") / "base")
