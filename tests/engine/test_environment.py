"""Which variables of a caller are taken."""

from __future__ import annotations

from engine.environment import of_libraries, of_stage, taken


def test_a_name_that_ends_in_a_star_is_the_beginning_of_several() -> None:
    caller = {"CUDA_HOME": "a", "CUDA": "b", "PATH": "c", "LD_LIBRARY_PATH": "d", "path": "e"}
    assert taken(caller, ("CUDA_*", "PATH")) == {"CUDA_HOME": "a", "PATH": "c"}


def test_no_secret_is_taken_unless_it_is_named() -> None:
    caller = {"RETAIN_API_KEYS": "a", "RETAIN_STORE": "b", "GOOGLE_APPLICATION_CREDENTIALS": "c"}
    assert taken(caller, ("RETAIN_*", "GOOGLE_*")) == {"RETAIN_STORE": "b"}
    assert {*of_stage(caller)} & {*caller} == {"RETAIN_STORE", "GOOGLE_APPLICATION_CREDENTIALS"}


def test_what_is_set_stands_above_what_the_caller_says() -> None:
    assert of_stage({"PYTHONUTF8": "0", "PYTHONHASHSEED": "7", "RETAIN_STORE": "x"}) == of_stage({}) | {
        "RETAIN_STORE": "x"
    }


def test_the_number_of_threads_is_the_stage_s() -> None:
    assert {of_libraries(3)[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} == {"3"}
