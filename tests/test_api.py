"""What the packages export: all of it is there, and it is imported only when it is used."""

import importlib
import subprocess
import sys

import pytest

EXPORTS = {
    "sharding": {
        *(
            "Annotations",
            "IncompleteError",
            "IndexConfig",
            "MediaError",
            "PackConfig",
            "PackResult",
            "PackedDataset",
            "Stats",
        ),
        *("UserError", "VerifyReport", "VideoRecord", "index", "measure", "open_dataset", "pack", "verify"),
    },
    "pipeline": {"DataConfig", "SampleError", "VideoBatch", "VideoLoader", "open_dataset"},
    "launch": {"Prediction", "Predictor", "load_checkpoint"},
}


@pytest.mark.parametrize("package", EXPORTS)
def test_every_name_is_there(package):
    module = importlib.import_module(package)
    assert set(module.__all__) == EXPORTS[package] == set(module._HOMES)
    assert set(dir(module)) >= EXPORTS[package]
    for name in module.__all__:
        value = getattr(module, name)
        assert callable(value), name
        assert value.__name__ == name or (package, name) == ("sharding", "open_dataset")
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nonsense'"):
        _ = module.nonsense


def run_without(modules: list[str], program: str) -> None:
    """Runs a program in which importing any of these modules fails."""
    blocked = f"import sys\nsys.modules |= dict.fromkeys({modules!r})\n"
    done = subprocess.run([sys.executable, "-c", blocked + program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_a_package_needs_nothing_installed():
    absent = ["av", "deepspeed", "jsonargparse", "numpy", "nvidia", "pyarrow", "torch", "tqdm", "joblib"]
    run_without(absent, "import sharding, pipeline, launch\nfrom sharding import Annotations, UserError, VideoRecord")


def test_a_function_that_names_the_package_goes_to_another_process():
    program = """
import joblib, sharding
def f(): return sharding.UserError.__name__
assert joblib.Parallel(n_jobs=2)(joblib.delayed(f)() for _ in range(2)) == ["UserError"] * 2"""
    run_without([], program)


def test_opening_a_dataset_needs_neither_torch_nor_pyav(numbered):
    run_without(
        ["av", "torch"], f"from sharding import open_dataset\nassert len(open_dataset({str(numbered)!r})) == 13"
    )


@pytest.mark.parametrize(
    "program",
    [
        "from sharding import PackConfig, pack, verify",
        "import sharding.pack, sharding.verify\nfrom sharding import pack, verify",
        "from sharding import pack, verify\nimport sharding.pack, sharding.verify",
        "from sharding.pack import PackConfig\nfrom sharding.verify import verify\nfrom sharding import pack, verify",
    ],
)
def test_functions_are_not_the_modules_of_the_same_name(program):
    check = "\nimport sharding\nassert callable(pack) and callable(verify)\nassert sharding.pack is pack\n"
    run_without([], program + check + "assert sharding.verify is verify")
