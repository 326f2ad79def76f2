"""A spot machine that is to be taken away says so, and the attempt that works on it saves what it has."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import notice
from engine.interval import CheckpointInterval
from engine.stage import COMPLETE, PREEMPTED
from flows.plan import load_experiment
from tests.engine.bucket_double import Buckets, serving
from tests.engine.metadata_double import Metadata, metadata
from tests.engine.processes import PATIENCE_S
from tests.engine.test_outage import elsewhere, request_of, start, steps_of
from tests.engine.test_stage import artifact_of, has_checkpoint, make_request, next_attempt, record_of, wait_for
from tests.reliability import write_row


@pytest.fixture
def machine() -> Iterator[Metadata]:
    with metadata() as server:
        yield server


def awaited(machine: Metadata, pauses: list[float]) -> threading.Thread:
    def pause(seconds: float) -> None:
        pauses.append(seconds)
        machine.broken = False

    thread = threading.Thread(target=notice.await_notice, args=(machine.host, pause), daemon=True)
    thread.start()
    return thread


def test_nothing_is_heard_until_there_is_a_notice(machine: Metadata) -> None:
    pauses: list[float] = []
    thread = awaited(machine, pauses)
    assert machine.waiting.wait(PATIENCE_S)
    assert thread.is_alive()
    machine.preempted.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert pauses == []


def test_a_notice_that_came_before_is_heard(machine: Metadata) -> None:
    machine.preempted.set()
    thread = awaited(machine, [])
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_server_that_can_t_answer_is_asked_again(machine: Metadata) -> None:
    machine.broken = True
    pauses: list[float] = []
    thread = awaited(machine, pauses)
    assert machine.waiting.wait(PATIENCE_S)
    assert pauses == [notice.AGAIN_S]
    machine.preempted.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_without_a_machine_of_google_s_there_is_no_notice() -> None:
    assert notice.server({}) is None
    assert notice.server({"GCE_METADATA_HOST": "metadata.google.internal"}) == "metadata.google.internal"


def test_an_attempt_saves_what_it_has_and_another_machine_goes_on(
    machine: Metadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = request_of(tmp_path / "undisturbed", "walk", pause_s=0.0)
    assert start(undisturbed).wait(PATIENCE_S) == COMPLETE

    monkeypatch.setenv("GCE_METADATA_HOST", machine.host)
    request = request_of(tmp_path, "walk", pause_s=0.1)
    process = start(request)
    wait_for(lambda: has_checkpoint(request))
    machine.preempted.set()
    assert process.wait(PATIENCE_S) == PREEMPTED
    record = record_of(request)
    assert (record.status, record.message) == ("preempted", notice.TAKEN_AWAY)

    monkeypatch.delenv("GCE_METADATA_HOST")
    resumed = elsewhere(next_attempt(request), tmp_path)
    assert start(resumed).wait(PATIENCE_S) == COMPLETE
    assert artifact_of(resumed) == artifact_of(undisturbed)


SECONDS, BYTES_S = 15.0, 50e6  # half of what Google leaves a machine, and a rate that a small one reaches


@pytest.mark.slow
def test_the_adapter_of_opt_350m_is_in_the_bucket_in_time(
    machine: Metadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the notice to a checkpoint that another machine may go on from, with the size that the locked experiment's
    SFT saves. How long the stage takes to the end of its step comes on top."""
    megabytes = checkpoint_of_sft() / 1e6
    monkeypatch.setenv("GCE_METADATA_HOST", machine.host)
    monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "cache"))
    buckets = Buckets("bucket")
    buckets.set(bytes_s=BYTES_S)
    with serving(buckets) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        seldom = CheckpointInterval(mean_hours_between_preemptions=4.0, every_s=1000.0, every_steps=None)
        config = {"steps": 10_000, "pause_s": 0.05, "scale": megabytes}
        planned = make_request(tmp_path, "holds", config=config, store="gs://bucket/x", checkpoint=seldom)
        request = elsewhere(planned, tmp_path)
        process = start(request)
        wait_for(lambda: machine.waiting.is_set() and steps_of(request) > 0)
        machine.preempted.set()
        noticed = time.monotonic()
        wait_for(lambda: any(name.endswith("/complete.json") for name in buckets.objects["bucket"]), 2 * SECONDS)
        seconds = time.monotonic() - noticed
        assert process.wait(PATIENCE_S) == PREEMPTED
    write_row(
        "notice of a spot machine",
        f"| SFT of exp_001_mvp | {megabytes:.1f} | {BYTES_S / 1e6:.0f} | {seconds:.1f} | {SECONDS:.0f} |",
    )
    assert seconds < SECONDS


def checkpoint_of_sft() -> int:
    """Bytes: the adapter in 32 bit, and the two means of each of its numbers that Adam keeps."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import OPTConfig, OPTForCausalLM

    from tasks.rlhf.language.lm import ATTENTION

    lora = load_experiment("exp_001_mvp").stages.sft.lora
    assert lora.targets == "attention"
    shape = OPTConfig(
        hidden_size=1024, num_hidden_layers=24, ffn_dim=4096, num_attention_heads=16, word_embed_proj_dim=512,
        do_layer_norm_before=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = get_peft_model(OPTForCausalLM(shape), LoraConfig(r=lora.r, target_modules=ATTENTION["opt"]))
    return 3 * 4 * sum(weight.numel() for name, weight in model.named_parameters() if "lora_" in name)
