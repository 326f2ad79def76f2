"""Language models: seconds of a step and memory at opt-350m's exact size, the parts of a PPO iteration, what
checkpoints, starting and a refusal cost in real runs, and the hours and dollars of exp_001_mvp on a spot L4.

    python bench/rlhf.py [--smollm2 FOLDER]

Weights are random and of exact shape, so times are real and texts are not. Each size runs in a process of its own,
whose peak of memory is shown. On a machine with a GPU steps and iterations are measured there, memory is the GPU's, and
its name is printed; the runs are those of the experiment `local`, on a CPU. FOLDER is a `base` artifact's files (of
SmolLM2, say) to measure PPO's iteration on; without it a tiny one is drawn. Hours and dollars are a model: nothing of
it was measured on an L4. Prints tables and writes bench/results/rlhf.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from engine.stage import StageRequest
    from flows.launch import Child
    from tasks.config import OptShape

OUT = ROOT / "bench" / "results" / "rlhf.json"
THREADS = 2
BATCH, PROMPT, REPLY = 8, 64, 64  # rows of a step: 8 x 128 tokens
# The stated model of a spot L4. Peak of NVIDIA's data sheet (dense bf16), of which LoRA beside 8-bit weights reaches
# about a seventh (bitsandbytes converts activations at every layer). A token of a batch is decoded no faster than the
# weights are read from memory, at batch 64 about half as fast; and each matrix of a layer, in 8 bit and with LoRA, is
# about ten kernels of 10 us to launch, one after the other, however small the batch: 24 x 6 x 0.1 ms = 14 ms a token.
L4 = {"flops": 121e12, "utilisation": 0.15, "bytes_per_s": 300e9, "decoding": 0.5, "matrix_s": 1e-4}
MATRICES = 6  # of a layer of OPT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", type=Path, help="files of a `base` artifact to measure PPO's iteration on")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--attempt", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--times", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attempt:
        return timed_attempt(options.attempt, options.times)
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
        device = device_of()
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

        step_s = _best(step, 3 if device == "cpu" else 20)
        forward_s = _best(lambda: _forward(language, rows), 2 if device == "cpu" else 20)
        began = time.monotonic()
        samples = decode.sample(language, [row[:PROMPT] for row in ids] * 2, 16, 1.0, generator, 2 * BATCH)
        decoded = sum(len(one.ids) for one in samples)
        return {
            "device": device_name(device),
            "load_s": round(load_s, 2),
            "step_s": round(step_s, 3),
            "tokens_per_s": round(BATCH * (PROMPT + REPLY) / step_s, 1),
            "forward_s": round(forward_s, 3),
            "decoded_per_s": round(decoded / (time.monotonic() - began), 1),
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

    from tasks.rlhf import lm

    with torch.no_grad():
        lm.log_probs(language, rows)


def _best(call: Callable[[], None], times: int) -> float:
    """Seconds of the fastest of some calls, the first of which only warms up; a GPU's work is waited for."""
    import torch

    def whole() -> None:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    whole()
    found = []
    for _ in range(times):
        began = time.monotonic()
        whole()
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
    about |= {"context": shape["max_position_embeddings"], "parameters": model.num_parameters(), "own_prefix": []}
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
    device = device_of()
    config = load_experiment("smollm2" if folder else "local").stages.ppo_text
    config = config.model_copy(update={"batch": SAMPLES, "max_tokens": 32})
    with tempfile.TemporaryDirectory() as scratch:
        inputs = _inputs(Path(scratch), folder)
        learner = ppo_text.Learner.start(config, inputs, device, 0)
        text, endless = learner.lm.text, _endless(learner.lm.text)
        learner.state.reference = ppo_text.Reference(ppo_text.Scale(0.0, 1.0), ppo_text.Scale(0.0, 1.0), 32.0)
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
            return ppo_text.score(learner.lm, learner.head, asked, samples, scale, 6, 0.1, config)

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
        language = make(folder, 16 if lm.read_about(folder)["precision"] == "bfloat16" else 32, device_of())
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


# -- checkpoints, starting and a refusal, in real runs -----------------------------------------------------------------


def spot_safe(_: Path | None) -> dict[str, Any]:
    """A whole `sft` of `local` through the engine, asked to stop after its first checkpoint and then resumed.

    Seconds from the resumed process's start to its first step, without those of loading weights; and the share of both
    attempts' work that went into checkpoints, all of it: writing the trainer's own files and putting them into the
    store, at the experiment's own interval.
    """
    from flows import attempt as attempts
    from flows.plan import make_plan
    from tasks.stages import STAGES

    stage, found = STAGES["sft"], []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RETAIN_STORE"] = folder
        wanted = [part for name in stage.inputs for part in ("--stage", name)]
        before = [sys.executable, "-m", "flows", "run", "--experiment", "local", *wanted]
        subprocess.run(before, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        plan = make_plan("local", ["sft"])
        identity, made = plan.standing()["sft"], plan.reusable()
        assert identity is not None
        kept = Path(folder) / plan.artifacts.prefix("sft", identity.fingerprint) / "checkpoints"
        asked = False

        def watch(child: Child) -> None:
            nonlocal asked
            if not asked and any(kept.glob("*/complete.json")):
                asked = True
                child.preempt()

        for status in ("preempted", "complete"):
            times = Path(folder) / f"{status}.json"
            attempts.launch = partial(_launch_timed, times=times)
            record = attempts.attempt(plan, stage, identity, {name: made[name] for name in stage.inputs}, watch).record
            if record.status != status:
                sys.exit(f"sft is {record.status}, not {status}: {record.message}")
            found.append(json.loads(times.read_text()))
    saves = [seconds for attempt in found for seconds in attempt["save_s"]]
    run_s = sum(attempt["run_s"] for attempt in found)
    return {
        "experiment": plan.experiment.tag,
        "saves": len(saves),
        "save_s": round(sum(saves), 3),
        "run_s": round(run_s, 2),
        "share": round(sum(saves) / run_s, 5),
        "load_s": round(found[1]["load_s"][0], 2),
        "start_s": round(found[1]["first_step_s"] - found[1]["load_s"][0], 2),
    }


def _launch_timed(request: StageRequest, times: Path) -> Child:
    """As flows.launch starts an attempt, but by timed_attempt()."""
    from flows.launch import LOG, Child

    work = Path(request.work)
    work.mkdir(parents=True)
    (work / "request.json").write_text(request.model_dump_json())
    command = [sys.executable, __file__, "--attempt", str(work / "request.json"), "--times", str(times)]
    with (work / LOG).open("ab") as log:
        began = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=ROOT)
    return Child(process, work, began)


def timed_attempt(path: Path, times: Path) -> int:
    """What `python -m engine` does, with clocks around the trainer's saves and the loading of weights."""
    from engine import __main__ as engine
    from engine import stage

    found: dict[str, Any] = {"save_s": [], "load_s": [], "run_s": 0.0}

    def clocked(call: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
        def timed(*arguments: Any, **more: Any) -> Any:
            began = time.monotonic()
            try:
                return call(*arguments, **more)
            finally:
                seconds.append(time.monotonic() - began)

        return timed

    whole: list[float] = []
    load = stage._load

    def loaded(entry: str) -> Any:
        """The engine loads a stage once threads are set, so nothing of torch is imported before."""
        what = load(entry)
        if entry.endswith(":run"):
            from tasks.rlhf import lm, training

            lm.load = clocked(lm.load, found["load_s"])
            training.ExactTrainer._save_checkpoint = clocked(training.ExactTrainer._save_checkpoint, found["save_s"])
            training.Finished.keep = clocked(training.Finished.keep, found["save_s"])
            return clocked(what, whole)
        return what

    stage._load = loaded
    code = engine.main([str(path)])
    progress = (path.parent / "progress.jsonl").read_text().splitlines()
    found |= {"run_s": sum(whole), "first_step_s": json.loads(progress[0])["seconds"]}
    times.write_text(json.dumps(found))
    return code


def refusal(_: Path | None) -> dict[str, Any]:
    """Seconds until exp_001_mvp's `sft` says what is missing, in an empty folder: its weights, and then a GPU too."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"RETAIN_STORE": f"{folder}/store", "RETAIN_DATA_DIR": folder}
        for name, gpu in (("files_s", True), ("gpu_s", False)):
            code = (
                f"import sys; from flows import preflight; preflight.has_gpu = lambda: {gpu};"
                "from flows.__main__ import main;"
                "sys.exit(main(['run', '--experiment', 'exp_001_mvp', '--stage', 'sft']))"
            )
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            found[name] = round(time.monotonic() - began, 2)
            if done.returncode != 2 or "can't run here" not in done.stderr:
                sys.exit(f"exp_001_mvp was not refused for what it lacks:\n{done.stderr}")
    return found


# -- the model of an L4 ------------------------------------------------------------------------------------------------


def hours_and_dollars() -> dict[str, Any]:
    """Of exp_001_mvp's language stages on a spot L4, by L4's stated model from operations and bytes.

    A frozen weight costs 2 operations a token forward and 2 backward. The mean length of a row is assumed: a third of
    max_length for text, half of max_tokens for replies. A batch is decoded until its last reply ends: max_tokens steps.
    """
    from flows.plan import load_experiment
    from retain.message import SITUATIONS

    experiment = load_experiment("exp_001_mvp")
    stages, shape = experiment.stages, experiment.stages.base.shape
    assert shape is not None
    weights = parameters(shape)
    rate = experiment.costs.machines.gpu.usd_per_hour
    forward = 2 * weights
    speed = L4["flops"] * L4["utilisation"]
    # Of a token of a batch, weights in 8 bit.
    token_s = weights / L4["bytes_per_s"] / L4["decoding"] + shape.num_hidden_layers * MATRICES * L4["matrix_s"]
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
    cells = len(SITUATIONS) * len(stages.prompts.offers) * stages.messages.candidates
    seconds["messages"] = 2 * (cells / stages.messages.batch) * stages.messages.max_tokens * token_s
    hours = {name: round(value / 3600, 3) for name, value in seconds.items()}
    total = sum(seconds.values()) / 3600
    return {"hours": hours, "total_hours": round(total, 2), "usd": round(total * rate, 2), "usd_per_hour": rate} | L4


def parameters(shape: OptShape) -> int:
    """Of an OPT of this shape, whose head is its embedding."""
    width, inner, word = shape.hidden_size, shape.ffn_dim, shape.word_embed_proj_dim
    layer = 4 * (width**2 + width) + 2 * width * inner + inner + width + 4 * width  # attention, MLP, two norms
    found = shape.vocab_size * word + (shape.max_position_embeddings + 2) * width + shape.num_hidden_layers * layer
    found += 2 * width * word if word != width else 0
    return found + (2 * width if shape.do_layer_norm_before else 0)


PARTS: dict[str, Callable[[Path | None], dict[str, Any]]] = {
    "opt_350m_bf16": opt_350m(16),
    "opt_350m_8bit": opt_350m(8),
    "ppo": ppo,
    "spot_safe": spot_safe,
    "refusal": refusal,
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
    safe, refused, l4 = results["spot_safe"], results["refusal"], results["l4"]
    table = Table("figure", "measured", "limit", title="Spot-safe")
    saved = f"{safe['saves']} checkpoints in {safe['run_s']:.0f} s of sft ({safe['experiment']})"
    table.add_row(saved, f"{safe['save_s']:.2f} s = {100 * safe['share']:.2f} %", "3 %")
    resumed = f"from a resumed start to its first step, less {safe['load_s']:.1f} s of loading weights"
    table.add_row(resumed, f"{safe['start_s']:.1f} s", "15 s")
    table.add_row("until the list of what is missing", f"{refused['files_s']:.1f} s", "10 s")
    table.add_row("until the list where a GPU is missing too", f"{refused['gpu_s']:.1f} s", "5 s")
    console.print(table)
    table = Table("stage", "hours", title="exp_001_mvp on a spot L4, by the stated model")
    for name, value in l4["hours"].items():
        table.add_row(name, f"{value:.2f}")
    table.add_row("all", f"{l4['total_hours']:.2f} = ${l4['usd']:.2f} at {l4['usd_per_hour']} $/h (aim: $5)")
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
