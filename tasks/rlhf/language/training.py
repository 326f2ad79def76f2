"""Drives a trainer of TRL so that it can be killed at any moment and ends with the bytes it would have had.

What its next step depends on goes through engine/checkpoint.py, never through a trainer's own folder: the adapter, the
optimiser, the schedule, torch's generators (dropout) and the step. The order of the data needs no state, since it is
drawn for the whole training before the first step. Measured with transformers 5.23 and trl 1.16 on a CPU.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from datasets import Dataset
from peft import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from engine.checkpoint import Preempted
from engine.errors import DataError, RetainError
from engine.finished import Finished
from tasks.rlhf.language import lm

if TYPE_CHECKING:
    from engine.stage import Workspace
    from tasks.config import FinetuneConfig

# A random stream, whose number never changes (tests/tasks/test_streams.py).
ORDER_STREAM = 2  # in which order a trainer sees its examples

TRAINER = "trainer/"  # where a checkpoint keeps the training in hand
CURVE = "curve.json"
REPORT_S = 1.0


@dataclass(frozen=True)
class Trained:
    """An adapter's files (lm.adapter_files), and a row for every step: step, loss, learning_rate, gradient."""

    files: dict[str, bytes]
    curve: list[dict[str, float]]


@dataclass(frozen=True)
class Job:
    """One training of a stage, on `examples` of them."""

    config: FinetuneConfig
    language: lm.Lm
    examples: int
    seed: int
    workspace: Workspace
    finished: Finished
    name: str  # of the training, in the checkpoint
    before: int  # steps of the stage that come before its first
    total: int  # steps of the stage

    @property
    def folder(self) -> Path:
        return self.workspace.scratch / f"trainer-{self.name}"


def done(finished: Finished, name: str) -> Trained | None:
    """A training that an earlier attempt finished."""
    files = finished.part(f"{name}/")
    if CURVE not in files:
        return None
    return Trained({key: files[key] for key in (lm.ADAPTER, lm.ADAPTER_ABOUT)}, json.loads(files[CURVE]))


def train(job: Job, trainer: ExactTrainer) -> Trained:
    """Trains to the end from wherever the checkpoint is. Raises Preempted when asked to stop, RetainError on NaN."""
    folder = _restore(job)
    trainer.train(resume_from_checkpoint=folder and str(folder))
    shutil.rmtree(job.folder, ignore_errors=True)
    curve = [
        {
            "step": float(row["step"]),
            "loss": row["loss"],
            "learning_rate": row["learning_rate"],
            "gradient": row["grad_norm"],
        }
        for row in trainer.state.log_history
        if "loss" in row
    ]
    trained = Trained(lm.adapter_files(job.language, job.config.lora), curve)
    job.finished.drop(TRAINER)
    content = trained.files | {CURVE: json.dumps(curve).encode()}
    last = job.before + job.config.max_steps
    job.finished.keep(job.workspace, last, {f"{job.name}/{key}": data for key, data in content.items()})
    return trained


def arguments(job: Job) -> dict[str, Any]:
    """Of TRL's configs: nothing is reported, uploaded, cached or cast; saving and ordering are ours."""
    config = job.config
    return {
        "output_dir": str(job.folder),
        "max_steps": config.max_steps,
        "per_device_train_batch_size": config.batch,
        "learning_rate": config.learning_rate,
        "warmup_steps": config.warmup_steps,
        "lr_scheduler_type": "linear",
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "seed": job.seed,
        "data_seed": job.seed,
        "train_sampling_strategy": "sequential",
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "activation_checkpointing": False,
        "bf16": False,
        "fp16": False,
        "use_cpu": job.language.device.type == "cpu",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "log_level": "error",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": None,
    }


def order(job: Job) -> Dataset:
    """Which example comes when: all of them in a drawn order, again and again until the steps are done."""
    if not job.examples:
        raise DataError(f"{job.name}: there is nothing to train on; look at the counts of the stages that feed it")
    wanted = job.config.max_steps * job.config.batch
    orders = [
        np.random.default_rng([job.seed, ORDER_STREAM, epoch]).permutation(job.examples)
        for epoch in range(-(-wanted // job.examples))
    ]
    return Dataset.from_dict({"example": np.concatenate(orders)[:wanted]})


def tokenizer(text: lm.Text) -> PreTrainedTokenizerFast:
    """A copy for a trainer, which wants to know what pads and ends."""
    names = text.tokenizer.convert_ids_to_tokens([text.pad, text.eos])
    return PreTrainedTokenizerFast(
        tokenizer_object=text.tokenizer.backend_tokenizer, pad_token=names[0], eos_token=names[1]
    )


class ExactTrainer(Trainer):  # type: ignore[misc]
    """Before a trainer of TRL in a class's bases. A step goes through the model in groups of like length."""

    def __init__(self, job: Job, **of_trl: Any) -> None:
        self.job = job
        self.kept = job.finished.step - job.before if job.finished.part(_place(job)) else 0
        drawn = {key: value.data for key, value in _trained(job.language)}
        super().__init__(
            model=job.language.model,
            train_dataset=order(job),
            data_collator=lambda rows: {"example": torch.tensor([row["example"] for row in rows])},
            processing_class=tokenizer(job.language.text),
            callbacks=[_Watch(self)],
            **of_trl,
        )
        # TRL rounds adapters of 8-bit weights to bfloat16; they were drawn in float32 and are trained in it.
        for key, value in _trained(job.language):
            value.data = drawn[key]
        _no_other_dropout(job.language)
        self.remove_callback(PrinterCallback)

    # An example is read when its step comes: of 100,000 pairs few do, and a start waits for none of them.

    def read(self, example: int) -> Any:
        """One example, as ids."""
        raise NotImplementedError

    def length(self, row: Any) -> int:
        """The tokens it takes in a padded batch."""
        raise NotImplementedError

    def weight(self, row: Any) -> float:
        """Its share in the loss of a step."""
        raise NotImplementedError

    def batch(self, group: Sequence[Any]) -> dict[str, Any]:
        """What compute_loss, a mean over the weights of a group, is handed."""
        raise NotImplementedError

    def training_step(self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Gradients of one batch, group by group. Raises Preempted within a group too, as if before the step."""
        model.train()
        rows = [self.read(example) for example in inputs["example"].tolist()]
        whole = sum(map(self.weight, rows))
        device = self.job.language.device
        before, loss = _random_state(), torch.zeros((), device=device)
        try:
            with lm.interruptible(self.job.language, self.job.workspace):
                for places in lm.by_length([self.length(row) for row in rows], lm.ROOM[device.type]):
                    group = [rows[i] for i in places]
                    part = self.compute_loss(model, self.batch(group)) * (sum(map(self.weight, group)) / whole)
                    self.check(float(part.detach()), "loss")
                    self.accelerator.backward(part)
                    loss += part.detach()
        except Preempted:
            _set_random_state(before)
            self.stop()
        return loss

    def check(self, value: float, what: str) -> None:
        """Raises RetainError for a loss or gradient that is not a number: the next steps would be worth nothing."""
        if math.isfinite(value):
            return
        step = self.state.global_step + 1
        good = f"the last good checkpoint is step {self.kept}" if self.kept else "there is no checkpoint before it"
        raise RetainError(
            f"{self.job.name}: the {what} is not a number at step {step}; {good}: lower learning_rate, raise "
            "warmup_steps or use base weights of another precision"
        )

    def stop(self) -> NoReturn:
        """Ends the attempt, with a checkpoint if there is anything new to keep."""
        if self.state.global_step > self.kept:
            self._save_checkpoint(self.model, None)
        raise Preempted

    # What follows replaces parts of Trainer and of TRL's own.

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        self.check(float(norm), "gradient")
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Raises Preempted if the attempt has to end, RetainError where the folder or the store can't be written."""
        job, step = self.job, self.state.global_step
        folder = job.folder / f"checkpoint-{step}"
        with job.workspace.saving():
            with _writing(job, step):
                super()._save_checkpoint(model, trial)
                files = {f"{_place(job)}{path.name}": path.read_bytes() for path in folder.iterdir()}
                shutil.rmtree(folder)
            job.workspace.checkpoints.save(job.before + step, job.finished.files | files)
            self.kept = step

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Without training_args.bin, which is a pickle with paths and times."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = get_peft_model_state_dict(self.model)
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, folder / lm.ADAPTER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        lm.set_tensors(self.job.language, load_file(Path(resume_from_checkpoint) / lm.ADAPTER), "default")

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """Nothing to tokenise: it is the order of the examples."""
        return dataset

    def create_model_card(self, *_: Any, **__: Any) -> None:
        pass

    def _send_telemetry(self) -> None:
        """Nobody is told who trains what."""


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Asks for checkpoints, and tells how far the training is."""

    def __init__(self, trainer: ExactTrainer) -> None:
        self.trainer = trainer
        self.reported = -math.inf

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The last step is kept with what comes of the training.
        if state.global_step < state.max_steps:
            control.should_save = self.trainer.job.workspace.checkpoint_due()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        job, now = self.trainer.job, time.monotonic()
        if "loss" in logs and (now - self.reported >= REPORT_S or state.global_step == state.max_steps):
            self.reported = now
            job.workspace.progress(job.before + state.global_step, job.total, loss=logs["loss"])


def _place(job: Job) -> str:
    return f"{TRAINER}{job.name}/"


def _restore(job: Job) -> Path | None:
    """The trainer's folder of the checkpoint, or None if it is to begin."""
    shutil.rmtree(job.folder, ignore_errors=True)
    files = job.finished.part(_place(job))
    job.finished.drop(TRAINER)  # the next save brings newer ones
    if not files:
        return None
    folder = job.folder / "resumed"
    with _writing(job, job.finished.step - job.before):
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return folder


@contextmanager
def _writing(job: Job, step: int) -> Iterator[None]:
    """Raises RetainError for what can't be written; of a full disk torch and safetensors each have their own error."""
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # RuntimeErrors too, but a GPU's
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RetainError(
            f"{job.name}: step {step} can't be written to {job.folder} ({str(error).splitlines()[0]}). Make room there "
            f"and start again: it goes on from its newest checkpoint"
        ) from None


def _trained(language: lm.Lm) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in language.model.named_parameters() if value.requires_grad]


def _no_other_dropout(language: lm.Lm) -> None:
    """OPT brings its own; the experiment's is LoRA's alone."""
    for module in language.model.modules():
        for name in ("dropout", "attention_dropout", "activation_dropout", "layerdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _random_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda  # noqa: NPY002


def _set_random_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])
    if state[3]:
        torch.cuda.set_rng_state_all(state[3])
