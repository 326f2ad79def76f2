"""Language models: seconds of a step and memory at opt-350m's exact size, the parts of a PPO iteration, and the hours
and dollars of exp_001_mvp on a spot L4.

    python bench/rlhf.py [--smollm2 FOLDER]

Weights are random and of exact shape, so times are real and texts are not. Each size runs in a process of its own,
whose peak of memory is shown. On a machine with a GPU steps and iterations are measured there, memory is the GPU's, and
its name is printed. FOLDER is a `base` artifact's files (of SmolLM2, say) to measure PPO's iteration on; without it a
tiny one is drawn. Hours and dollars are a model: nothing of
it was measured on an L4. Prints tables and writes bench/results/rlhf.json.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from tasks.config import OptShape

OUT = ROOT / "bench" / "results" / "rlhf.json"
THREADS = 2
BATCH, PROMPT, REPLY = 8, 64, 64  # rows of a step: 8 x 128 tokens
DECODED = 16  # tokens of each of 2 x 8 replies
# The stated model of a spot L4. Arithmetic: NVIDIA's peak (dense bf16), of which LoRA beside 8-bit weights reaches
# about a seventh (bitsandbytes converts activations at every layer). Decoding reads the weights from memory at every
# token, at batch 64 at about half its speed. And there is the host, which launches kernel after kernel however small
# the batch: measured on an H200 by bench/stages.py, a token of 64 replies took 105 ms, which is 0.73 ms for each
# matrix in 8 bit with LoRA; a step of SFT in one pass 0.34 s and one of a reward model in two 0.70 s, so forward and
# backward take three times that. A chip changes none of it, a slower host does: that of g2-standard-4 is taken to be
# half as fast again.
L4 = {"flops": 121e12, "utilisation": 0.15, "bytes_per_s": 300e9, "decoding": 0.5, "matrix_s": 7.3e-4, "host": 1.5}
BACKWARD = 3  # passes that forward and backward are worth, to the host
MATRICES = 6  # of a layer of OPT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", type=Path, help="files of a `base` artifact to measure PPO's iteration on")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(MEASUREMENTS[options.measure](options.smollm2)))
        return 0
    results = {name: _in_a_script(name, options.smollm2) for name in MEASUREMENTS}
    results["l4"] = hours_and_dollars()
    show(results)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


def _in_a_script(name: str, folder: Path | None) -> dict[str, Any]:
    """One measurement in a process of its own, so that its peak of memory is its own too."""
    command = [sys.executable, __file__, "--measure", name, *(["--smollm2", str(folder)] if folder else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        sys.exit(f"{name} failed:\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


# -- opt-350m ------------------------------------------------------------------------------------------------------


def opt_350m(bits: int) -> Callable[[Path | None], dict[str, Any]]:
    """Seconds of a LoRA step and of a decoded token, and memory, at exp_001_mvp's shape."""

    def measure(_: Path | None) -> dict[str, Any]:
        import torch

        from tasks.rlhf.language import decode, lm

        torch.set_num_threads(THREADS)
        device = device_of()
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder)
            _in_a_process(_random_opt, base)
            began = time.monotonic()
            language = lm.load(base, bits, device)  # type: ignore[arg-type]
            _wait()
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

        step_s = _best(step, 3 if device == "cpu" else 20)
        forward_s = _best(lambda: _forward(language, rows), 2 if device == "cpu" else 20)
        language.text = _endless(language.text)
        prompts = [row[:PROMPT] for row in ids] * 2
        decode_s = _best(
            lambda: decode.sample(language, prompts, DECODED, 1.0, generator, len(prompts)),
            2 if device == "cpu" else 20,
        )
        return {
            "device": device_name(device),
            "load_s": round(load_s, 2),
            "step_s": round(step_s, 3),
            "tokens_per_s": round(BATCH * (PROMPT + REPLY) / step_s, 1),
            "forward_s": round(forward_s, 3),
            "decoded_per_s": round(len(prompts) * DECODED / decode_s, 1),
            "memory_gb": memory_gb(device),
        }

    return measure


def device_of() -> str:
    """Where steps and iterations are measured."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(device: str) -> str:
    import torch

    return str(torch.cuda.get_device_name()) if device == "cuda" else f"{THREADS} CPU threads"


def memory_gb(device: str) -> float:
    """The peak so far: what was allocated on the GPU, or this process's resident memory."""
    import torch

    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def _forward(language: Any, rows: Any) -> None:
    import torch

    from tasks.rlhf.language import lm

    with torch.no_grad():
        lm.log_probs(language, rows)


def _wait() -> None:
    """Until a GPU has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _in_a_process(call: Callable[..., object], *arguments: object) -> None:
    """Calls it in a process of its own, so that the memory it takes is not in this one's peak."""
    process = multiprocessing.get_context("spawn").Process(target=call, args=arguments)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"{call} ended with exit code {process.exitcode}")


def _best(call: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of some calls, the first of which only warms up; a GPU's work is waited for."""

    def whole() -> None:
        call()
        _wait()

    whole()
    seconds = []
    for _ in range(times):
        began = time.monotonic()
        whole()
        seconds.append(time.monotonic() - began)
    return min(seconds)


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

    from tasks.rlhf.language import lm

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
    about |= {"context": shape["max_position_embeddings"], "parameters": model.num_parameters(), "own_prefix": []}
    (folder / lm.ABOUT).write_text(json.dumps(about), encoding="utf-8")
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
    from tasks.config import TextPpoConfig
    from tasks.rlhf import ppo_text
    from tasks.rlhf.judging.rewards import Scale
    from tasks.rlhf.language import lm

    torch.set_num_threads(THREADS)
    device = device_of()
    experiment = load_experiment("smollm2" if folder else "local")
    stated = dict(experiment.stages.ppo_text) | {"batch": SAMPLES, "max_tokens": 32}
    config = TextPpoConfig(**stated, rules=experiment.words.rules)
    with tempfile.TemporaryDirectory() as scratch:
        _in_a_process(_write_inputs, Path(scratch), folder)
        inputs = {name: Path(scratch) / name for name in ("prompts", "sft", "rm")}
        inputs["base"] = folder or Path(scratch) / "base"
        learner = ppo_text.Learner.start(config, inputs, device, 0)
        text, endless = learner.lm.text, _endless(learner.lm.text)
        learner.state.reference = ppo_text.Reference(Scale(0.0, 1.0), Scale(0.0, 1.0), 32.0)
        asked = ppo_text.at_iteration(learner.prompts.training, 0, SAMPLES, 0)

        def generate() -> Any:
            learner.lm.text = endless
            try:
                return ppo_text.generate(learner.lm, asked, config, torch.Generator().manual_seed(0))
            finally:
                learner.lm.text = text

        samples = generate()
        scale = learner.state.reference.training

        def score() -> Any:
            return ppo_text.score(learner.lm, learner.head, asked, samples, scale, 6, learner.rules, 0.1, config)

        rollout = score()

        def update() -> Any:
            rng = np.random.default_rng(0)
            return ppo_text.update(learner.lm, learner.head, learner.optimiser, rollout, config, rng)

        longest = max(len(prompt.ids) for prompt in asked)
        pad = learner.lm.text.pad
        ids = torch.tensor([[pad] * (longest - len(prompt.ids)) + prompt.ids for prompt in asked], device=device)
        mask = torch.tensor([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in asked], device=device)

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
        "device": device_name(device),
        "seconds": seconds,
        "samples_per_s": round(SAMPLES / whole, 2),
        "against_generate": round(seconds["generate"] / seconds["generation"], 2),
        "memory_gb": memory_gb(device),
    }


def _endless(text: Any) -> Any:
    """No token ends a reply, so that all have the same length."""
    from dataclasses import replace

    return replace(text, eos=-1)


def _write_inputs(scratch: Path, folder: Path | None) -> None:
    """Random `sft`, `rm`, prompts of about forty tokens, and `base` where there is none."""
    from engine.artifact import ArtifactWriter
    from flows.plan import load_experiment
    from tasks.rlhf.language import lm
    from tasks.rlhf.prompt_tables import PROMPTS

    if folder is None:
        shape = load_experiment("local").stages.base.shape
        assert shape is not None
        folder = scratch / "base"
        folder.mkdir()
        random_base(folder, shape.model_dump(), "float32")
    lora: Any = lm.Shape(16, 32, 0.0, "attention")
    for name in ("sft", "rm/training", "rm/validation"):
        make = lm.load if name == "sft" else lambda *arguments: lm.load_reward(*arguments, seed=0)
        language = make(folder, 16 if lm.read_about(folder)["precision"] == "bfloat16" else 32, device_of())
        lm.new_adapter(language, lora, 0)
        (scratch / name).mkdir(parents=True)
        for file, content in lm.adapter_files(language, lora).items():
            (scratch / name / file).write_bytes(content)
    template = "Customer: two years with us, fibre, pays by check. Offer: {} percent off for six months. Write to them."
    rows = [
        {"id": "", "customer": "", "situation": "", "prompt": template.format(i % 30), "offer": i % 30, "part": part}
        for i in range(96)
        for part in ("train", "validation")
    ]
    out = ArtifactWriter(scratch / "prompts")
    out.parquet(PROMPTS.file, PROMPTS.of(rows))
    out.json("about.json", {"months": 6})


# -- the model of an L4 ------------------------------------------------------------------------------------------------


def hours_and_dollars() -> dict[str, Any]:
    """Of exp_001_mvp's language stages on a spot L4: arithmetic or launching kernels, whichever takes longer.

    A frozen weight costs 2 operations a token forward and 2 backward. The mean length of a row is assumed: a third of
    max_length for text, half of max_tokens for replies. A batch is decoded until its last reply ends: max_tokens steps.
    """
    from engine.prices import load_prices
    from flows.plan import load_experiment
    from flows.pools import ON_THIS_MACHINE, machines_for
    from retain.message import SITUATIONS
    from tasks.rlhf.language.lm import ROOM

    experiment = load_experiment("exp_001_mvp")
    stages, shape = experiment.stages, experiment.stages.base.shape
    assert shape is not None
    weights = parameters(shape)
    launch_s = shape.num_hidden_layers * MATRICES * L4["matrix_s"] * L4["host"]  # of one pass through the model
    token_s = launch_s + weights / L4["bytes_per_s"] / L4["decoding"]  # of a token of a batch, weights in 8 bit

    def pass_s(tokens: float) -> float:
        """Seconds of `tokens` forward, in pieces of at most ROOM."""
        passes = math.ceil(tokens / ROOM["cuda"])
        return max(2 * weights * tokens / L4["flops"] / L4["utilisation"], passes * launch_s)

    def step_s(config: Any, rows: int) -> float:
        tokens = rows * config.batch * config.max_length / 3
        return max(2 * pass_s(tokens), BACKWARD * launch_s * math.ceil(tokens / ROOM["cuda"]))

    seconds = {
        "sft": stages.sft.max_steps * step_s(stages.sft, 1),
        "rm": 2 * stages.rm.max_steps * step_s(stages.rm, 2),
        "judge": stages.judge.max_steps * step_s(stages.judge, 2),
    }
    ppo_, asked = stages.ppo_text, 45 + stages.ppo_text.max_tokens / 2  # tokens of a prompt and its reply
    sampled, updates = ppo_.batch * asked, ppo_.epochs * ppo_.minibatches
    update_s = max(2 * ppo_.epochs * pass_s(sampled), BACKWARD * updates * launch_s)
    looks, validation = ppo_.iterations / ppo_.validate_every, stages.prompts.validation_prompts * asked
    seconds["ppo_text"] = ppo_.iterations * (ppo_.max_tokens * token_s + 3 * pass_s(sampled) + update_s)
    seconds["ppo_text"] += looks * (ppo_.max_tokens * token_s + 2 * pass_s(validation))
    prompts, batch = stages.prompts.test_prompts + stages.prompts.probes, stages.text_eval.batch
    seconds["text_eval"] = 2 * (prompts / batch) * (stages.text_eval.max_tokens * token_s + 2 * pass_s(batch * asked))
    cells = len(SITUATIONS) * len(stages.prompts.offers) * stages.messages.candidates
    seconds["messages"] = 2 * (cells / stages.messages.batch) * stages.messages.max_tokens * token_s
    hours = {name: round(value / 3600, 3) for name, value in seconds.items()}
    (gpu,) = machines_for(experiment.costs, ON_THIS_MACHINE, load_prices(), gpu=True, lasting=False)
    total, rate = sum(seconds.values()) / 3600, gpu.usd_per_hour
    return {"hours": hours, "total_hours": round(total, 2), "usd": round(total * rate, 2), "usd_per_hour": rate} | L4


def parameters(shape: OptShape) -> int:
    """Of an OPT of this shape, whose head is its embedding."""
    width, inner, word = shape.hidden_size, shape.ffn_dim, shape.word_embed_proj_dim
    layer = 4 * (width**2 + width) + 2 * width * inner + inner + width + 4 * width  # attention, MLP, two norms
    embeddings = shape.vocab_size * word + (shape.max_position_embeddings + 2) * width
    projections = 2 * width * word if word != width else 0
    final_norm = 2 * width if shape.do_layer_norm_before else 0
    return embeddings + shape.num_hidden_layers * layer + projections + final_norm


MEASUREMENTS: dict[str, Callable[[Path | None], dict[str, Any]]] = {
    "opt_350m_bf16": opt_350m(16),
    "opt_350m_8bit": opt_350m(8),
    "ppo": ppo,
}


def show(results: dict[str, Any]) -> None:
    console = Console()
    shapes = [results["opt_350m_bf16"], results["opt_350m_8bit"]]
    table = Table("opt-350m", "bf16", "8 bit", title=f"A step of {BATCH} x {PROMPT + REPLY} tokens")
    for name in shapes[0]:
        table.add_row(name, *(str(shape[name]) for shape in shapes))
    console.print(table)
    ppo_ = results["ppo"]
    table = Table("part", "seconds", title=f"PPO, {ppo_['model']} on {ppo_['device']}: {SAMPLES} replies of 32 tokens")
    for name, value in ppo_["seconds"].items():
        table.add_row("transformers' generate" if name == "generate" else name, f"{value:.3f}")
    table.add_row("samples/s", f"{ppo_['samples_per_s']:.2f}")
    table.add_row("generation against generate (>= 0.8)", f"{ppo_['against_generate']:.2f} x")
    console.print(table)
    l4 = results["l4"]
    table = Table("stage", "hours", title="exp_001_mvp on a spot L4, by the stated model")
    for name, value in l4["hours"].items():
        table.add_row(name, f"{value:.2f}")
    table.add_row("all", f"{l4['total_hours']:.2f} = ${l4['usd']:.2f} at {l4['usd_per_hour']} $/h (aim: $5)")
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
