"""Language models: seconds of a step and memory at opt-350m's exact size, the parts of a PPO iteration, what
checkpoints and starting cost, and from all that the hours and dollars of exp_001_mvp on a spot L4.

    python bench/rlhf.py [--smollm2 FOLDER]

Weights are random and of exact shape, so times are real and texts are not. Each size runs in a process of its own,
whose peak of memory is shown. On a machine with a GPU the same is measured there and its name printed. FOLDER is a
`base` artifact's files (of SmolLM2, say) to measure PPO's iteration on; without it a tiny one is drawn. Prints tables
and writes bench/results/rlhf.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

OUT = ROOT / "bench" / "results" / "rlhf.json"
THREADS = 2
BATCH, PROMPT, REPLY = 8, 64, 64  # rows of a step: 8 x 128 tokens
# The stated model of a spot L4. Peak of NVIDIA's data sheet (dense bf16), of which LoRA beside 8-bit weights reaches
# about a seventh (bitsandbytes converts activations at every layer); a token is decoded no faster than the weights are
# read from memory, and at batch 64 about half as fast.
L4 = {"flops": 121e12, "utilisation": 0.15, "bytes_per_s": 300e9, "decoding": 0.5}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", type=Path, help="files of a `base` artifact to measure PPO's iteration on")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](options.smollm2)))
        return 0
    results = {name: _apart(name, options.smollm2) for name in PARTS}
    results["l4"] = hours_and_dollars()
    show(results)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def _apart(part: str, folder: Path | None) -> dict[str, Any]:
    """A part in a process of its own: its peak of memory is its own too."""
    command = [sys.executable, __file__, "--part", part, *(["--smollm2", str(folder)] if folder else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{part} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- opt-350m ------------------------------------------------------------------------------------------------------


def opt_350m(bits: int) -> Callable[[Path | None], dict[str, Any]]:
    """Seconds of a LoRA step and of a decoded token, and memory, at exp_001_mvp's shape."""

    def measure(_: Path | None) -> dict[str, Any]:
        import torch

        from tasks.rlhf import decode, lm

        torch.set_num_threads(THREADS)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with tempfile.TemporaryDirectory() as folder:
            base = _random_opt(Path(folder))
            gc.collect()
            began = time.monotonic()
            language = lm.load(base, bits, device)  # type: ignore[arg-type]
            load_s = time.monotonic() - began
        lm.new_adapter(language, lm.Shape(16, 32, 0.0, "attention"), 0)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(10, 5000, (BATCH, PROMPT + REPLY), generator=generator).tolist()
        rows = [(row[:PROMPT], row[PROMPT:]) for row in ids]
        trained = [value for value in language.model.parameters() if value.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=1e-4)

        def step() -> None:
            loss = -lm.log_probs(language, rows)[0].mean()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            if device == "cuda":
                torch.cuda.synchronize()

        step_s = _best(step, 3 if device == "cpu" else 20)
        forward_s = _best(lambda: _forward(language, rows), 2 if device == "cpu" else 20)
        began = time.monotonic()
        samples = decode.sample(language, [row[:PROMPT] for row in ids] * 2, 16, 1.0, generator, 2 * BATCH)
        decoded = sum(len(one.ids) for one in samples)
        return {
            "device": torch.cuda.get_device_name() if device == "cuda" else f"{THREADS} CPU threads",
            "load_s": round(load_s, 2),
            "step_s": round(step_s, 3),
            "tokens_per_s": round(BATCH * (PROMPT + REPLY) / step_s, 1),
            "forward_s": round(forward_s, 3),
            "decoded_per_s": round(decoded / (time.monotonic() - began), 1),
            "memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }

    return measure


def _forward(language: Any, rows: Any) -> None:
    import torch

    from tasks.rlhf import lm

    with torch.no_grad():
        lm.log_probs(language, rows)


def _best(call: Callable[[], None], times: int) -> float:
    """Seconds of the fastest of some calls, the first of which only warms up."""
    call()
    found = []
    for _ in range(times):
        began = time.monotonic()
        call()
        found.append(time.monotonic() - began)
    return min(found)


def _random_opt(folder: Path) -> Path:
    """The files of a `base` artifact: opt-350m's shape as exp_001_mvp states it."""
    from flows.plan import load_experiment

    shape = load_experiment("exp_001_mvp").stages.base.shape
    assert shape is not None
    return random_base(folder, shape.model_dump(), "bfloat16")


def random_base(folder: Path, shape: dict[str, Any], precision: str) -> Path:
    """Random weights of a shape in OPT's own names."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoModelForCausalLM, OPTConfig

    from tasks.rlhf import lm

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["a few words"], vocab_size=300, special_tokens=["<pad>", "</s>"])
    tokenizer.save(str(folder / lm.TOKENIZER))
    config = OPTConfig(**shape, pad_token_id=0, bos_token_id=1, eos_token_id=1, dropout=0.0)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, precision))
    config.save_pretrained(folder)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, folder / lm.WEIGHTS, metadata={"format": "pt"})
    about = {"model": "random", "architecture": "opt", "precision": precision, "style": "plain", "pad": 0, "eos": 1}
    about |= {"context": shape["max_position_embeddings"], "parameters": model.num_parameters()}
    (folder / lm.ABOUT).write_text(json.dumps(about))
    return folder


# -- an iteration of PPO -----------------------------------------------------------------------------------------------

SAMPLES = 48


def ppo(folder: Path | None) -> dict[str, Any]:
    """Seconds of generation, scoring and update of one iteration, and generation against transformers' `generate`.

    Nobody ends early: every reply has the full length, in both.
    """
    import numpy as np
    import torch

    from flows.plan import load_experiment
    from tasks.rlhf import lm, ppo_text

    torch.set_num_threads(THREADS)
    config = load_experiment("smollm2" if folder else "local").stages.ppo_text
    config = config.model_copy(update={"batch": SAMPLES, "max_tokens": 32})
    with tempfile.TemporaryDirectory() as scratch:
        inputs = _inputs(Path(scratch), folder)
        learner = ppo_text.Learner.start(config, inputs, "cpu", 0)
        learner.lm.text = _endless(learner.lm.text)
        learner.state.reference = ppo_text.Reference(ppo_text.Scale(0.0, 1.0), ppo_text.Scale(0.0, 1.0), 32.0)
        asked = ppo_text.at_iteration(learner.prompts.training, 0, SAMPLES, 0)

        def generate() -> Any:
            return ppo_text.generate(learner.lm, asked, config, torch.Generator().manual_seed(0))

        samples = generate()
        scale = learner.state.reference.training

        def score() -> Any:
            return ppo_text.score(learner.lm, learner.head, asked, samples, scale, 6, 0.1, config)

        rollout = score()

        def update() -> Any:
            rng = np.random.default_rng(0)
            return ppo_text.update(learner.lm, learner.head, learner.optimiser, rollout, config, rng)

        longest = max(len(prompt.ids) for prompt in asked)
        pad = learner.lm.text.pad
        ids = torch.tensor([[pad] * (longest - len(prompt.ids)) + prompt.ids for prompt in asked])
        mask = torch.tensor([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in asked])

        def bare() -> Any:
            with torch.no_grad():
                return learner.lm.model.generate(
                    input_ids=ids, attention_mask=mask, min_new_tokens=32, max_new_tokens=32, do_sample=True, top_k=0,
                    pad_token_id=pad,
                )  # fmt: skip

        seconds = {
            name: round(_best(call, 2), 3)
            for name, call in (("generation", generate), ("scoring", score), ("update", update), ("generate", bare))
        }
    whole = seconds["generation"] + seconds["scoring"] + seconds["update"]
    return {
        "model": lm.read_about(folder)["model"] if folder else "tiny",
        "seconds": seconds,
        "samples_per_s": round(SAMPLES / whole, 2),
        "against_generate": round(seconds["generate"] / seconds["generation"], 2),
        "memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def _endless(text: Any) -> Any:
    """No token ends a reply, so that all have the same length."""
    from dataclasses import replace

    return replace(text, eos=-1)


def _inputs(scratch: Path, folder: Path | None) -> dict[str, Path]:
    """`base`, and random `sft`, `rm` and prompts of about forty tokens."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from flows.plan import load_experiment
    from tasks.rlhf import lm

    if folder is None:
        shape = load_experiment("local").stages.base.shape
        assert shape is not None
        folder = scratch / "base"
        folder.mkdir()
        random_base(folder, shape.model_dump(), "float32")
    lora: Any = lm.Shape(16, 32, 0.0, "attention")
    for name in ("sft", "rm/training", "rm/validation"):
        make = lm.load if name == "sft" else lambda *of: lm.load_reward(*of, seed=0)
        language = make(folder, 16 if lm.read_about(folder)["precision"] == "bfloat16" else 32, "cpu")
        lm.new_adapter(language, lora, 0)
        (scratch / name).mkdir(parents=True)
        for file, content in lm.adapter_files(language, lora).items():
            (scratch / name / file).write_bytes(content)
    (scratch / "prompts").mkdir()
    said = "Customer: two years with us, fibre, pays by check. Offer: {} percent off for six months. Write to them."
    rows = [{"prompt": said.format(i % 30), "offer": i % 30, "part": part} for i in range(96) for part in PROMPTS_OF]
    pq.write_table(pa.Table.from_pylist(rows), scratch / "prompts" / "prompts.parquet")
    (scratch / "prompts" / "about.json").write_text('{"months": 6}')
    return {"base": folder, "prompts": scratch / "prompts", "sft": scratch / "sft", "rm": scratch / "rm"}


PROMPTS_OF = ("train", "validation")


# -- checkpoints and starting ----------------------------------------------------------------------------------------


def checkpoints(_: Path | None) -> dict[str, Any]:
    """Seconds to write a checkpoint of opt-350m's PPO (two adapters, two moments of one), against an interval."""
    import os

    from engine.checkpoint import Checkpointer
    from engine.claim import acquire
    from engine.store import open_store
    from flows.plan import load_experiment

    config = load_experiment("exp_001_mvp").stages.ppo_text
    adapter = 24 * 4 * 2 * 16 * 1024 * 4  # layers x projections x (A, B) x rank x width x float32
    files = {"adapter": os.urandom(adapter), "kept": os.urandom(adapter), "optimiser": os.urandom(2 * adapter)}
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        claim = acquire(store, "claim.json", 1, 30.0)
        assert claim is not None
        saver = Checkpointer(store, "checkpoints", claim)
        step = iter(range(1, 100))
        save_s = _best(lambda: saver.save(next(step), files), 5)
    return {
        "megabytes": round(sum(map(len, files.values())) / 2**20, 1),
        "save_s": round(save_s, 3),
        "share_at_interval": round(save_s / config.checkpoint.every_s, 5),
        "interval_s": config.checkpoint.every_s,
    }


def starting(_: Path | None) -> dict[str, Any]:
    """Seconds of imports of the slowest trainer: what comes before weights are loaded."""
    found = []
    for _attempt in range(3):
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", "import tasks.rlhf.sft; from trl import SFTTrainer"], cwd=ROOT, check=True
        )
        found.append(time.monotonic() - began)
    return {"imports_s": round(min(found), 2)}


# -- the model of an L4 ------------------------------------------------------------------------------------------------


def hours_and_dollars() -> dict[str, Any]:
    """Of exp_001_mvp's language stages on a spot L4, by L4's stated model from operations and bytes.

    A frozen weight costs 2 operations a token forward and 2 backward. Tokens a row are upper limits of what the
    experiment's lengths allow in the mean: a third of max_length for text, half of max_tokens for replies.
    """
    from flows.plan import load_experiment

    experiment = load_experiment("exp_001_mvp")
    stages, weights = experiment.stages, 331e6
    rate = experiment.costs.machines.gpu.usd_per_hour
    forward = 2 * weights
    speed = L4["flops"] * L4["utilisation"]
    token_s = weights / L4["bytes_per_s"] / L4["decoding"]  # of a batch, weights in 8 bit
    ppo_, asked = stages.ppo_text, 45 + stages.ppo_text.max_tokens / 2
    sampled = ppo_.iterations * ppo_.batch
    tokens = {
        "sft": stages.sft.max_steps * stages.sft.batch * stages.sft.max_length / 3,
        "rm": 2 * stages.rm.max_steps * 2 * stages.rm.batch * stages.rm.max_length / 3,
        "judge": stages.judge.max_steps * 2 * stages.judge.batch * stages.judge.max_length / 3,
    }
    seconds = {name: 2 * forward * count / speed for name, count in tokens.items()}
    looks = ppo_.iterations / ppo_.validate_every
    seconds["ppo_text"] = (
        (ppo_.iterations + looks) * ppo_.max_tokens * token_s
        + sampled * asked * forward * (3 + 2 * ppo_.epochs) / speed
        + looks * stages.prompts.validation_prompts * asked * forward * 2 / speed
    )
    prompts = stages.prompts.test_prompts + stages.prompts.probes
    seconds["text_eval"] = 2 * (prompts / stages.text_eval.batch) * stages.text_eval.max_tokens * token_s
    seconds["text_eval"] += 2 * prompts * asked * forward * 2 / speed
    cells = 6 * len(stages.prompts.offers) * stages.messages.candidates
    seconds["messages"] = 2 * (cells / stages.messages.batch) * stages.messages.max_tokens * token_s
    hours = {name: round(value / 3600, 3) for name, value in seconds.items()}
    total = sum(seconds.values()) / 3600
    return {"hours": hours, "total_hours": round(total, 2), "usd": round(total * rate, 2), "usd_per_hour": rate} | L4


PARTS: dict[str, Callable[[Path | None], dict[str, Any]]] = {
    "opt_350m_bf16": opt_350m(16),
    "opt_350m_8bit": opt_350m(8),
    "ppo": ppo,
    "checkpoints": checkpoints,
    "starting": starting,
}


def show(results: dict[str, Any]) -> None:
    console = Console()
    shapes = [results["opt_350m_bf16"], results["opt_350m_8bit"]]
    table = Table("opt-350m", "bf16", "8 bit", title=f"A step of {BATCH} x {PROMPT + REPLY} tokens")
    for name in shapes[0]:
        table.add_row(name, *(str(shape[name]) for shape in shapes))
    console.print(table)
    ppo_ = results["ppo"]
    table = Table("part", "seconds", title=f"PPO, {ppo_['model']}: {SAMPLES} replies of 32 tokens")
    for name, value in ppo_["seconds"].items():
        table.add_row("transformers' generate" if name == "generate" else name, f"{value:.3f}")
    table.add_row("samples/s", f"{ppo_['samples_per_s']:.2f}")
    table.add_row("generation against generate (>= 0.8)", f"{ppo_['against_generate']:.2f} x")
    console.print(table)
    kept, start, l4 = results["checkpoints"], results["starting"], results["l4"]
    table = Table("figure", "measured", "limit", title="Spot-safe")
    table.add_row(f"a checkpoint of {kept['megabytes']} MB every {kept['interval_s']:.0f} s",
                  f"{kept['save_s']:.3f} s = {100 * kept['share_at_interval']:.2f} %", "3 %")  # fmt: skip
    table.add_row("from start to loading weights", f"{start['imports_s']:.1f} s", "15 s")
    console.print(table)
    table = Table("stage", "hours", title="exp_001_mvp on a spot L4, by the stated model")
    for name, value in l4["hours"].items():
        table.add_row(name, f"{value:.2f}")
    table.add_row("all", f"{l4['total_hours']:.2f} = ${l4['usd']:.2f} at {l4['usd_per_hour']} $/h (aim: $5)")
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
