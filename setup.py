"""Packaging. The runtime alone needs numpy, constriction or numba, Pillow, rich and one inference backend."""

from pathlib import Path

from setuptools import find_packages, setup

# The folders of a checkout are installed as `ugicm.*`. The name `export` is for `python -m export.to_onnx` alone.
ROOMS = ("models", "training", "export", "calibration", "runtime", "adapters")
PACKAGES = find_packages(include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")])
FOLDERS = {f"ugicm.{name}": name.replace(".", "/") for name in PACKAGES}

# compressai 1.2.8 needs numpy 1; torch 2.14 and newer have not been tried.
EXPORT = [
    "torch>=2.9,<2.14",
    "compressai==1.2.8",
    "numpy>=1.26,<2",
    "scipy>=1.11",
    "onnx>=1.19",
    "onnxscript>=0.5",
    "onnxruntime>=1.22",
]

TRAIN = [
    *EXPORT,
    "matplotlib>=3.8",
    "pycocotools>=2.0.8",
    "pydantic>=2.6",
    "pyyaml>=6",
    "scikit-image>=0.22",
]
CLIP = ["open_clip_torch>=2.30"]

CUDA = "cuda-python>=12.8"

# constriction has wheels for these and no sources; elsewhere numba compiles the same range coder.
WHEELS = (
    "(sys_platform == 'linux' and platform_machine == 'x86_64') or sys_platform == 'darwin' or "
    "(sys_platform == 'win32' and platform_machine == 'AMD64')"
)
ELSEWHERE = (
    "(sys_platform != 'linux' or platform_machine != 'x86_64') and sys_platform != 'darwin' and "
    "(sys_platform != 'win32' or platform_machine != 'AMD64')"
)
RANGE_CODER = [f"constriction>=0.5.0,<0.6; {WHEELS}", f"numba>=0.61; {ELSEWHERE}"]

setup(
    name="ugicm",
    version="0.1.0",
    description="Learned image codecs, deployed: checkpoint to ONNX, and a runtime that decodes without PyTorch",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause-Clear",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=["ugicm", *FOLDERS, "export"],
    package_dir={"": ".", **FOLDERS, "ugicm": "ugicm", "export": "ugicm/export_command"},
    package_data={
        "ugicm": ["py.typed"],
        "ugicm.training": ["configs/*.yaml"],
        "ugicm.runtime": ["shipped/*/*"],
        "ugicm.adapters.web": ["static/*"],
        "ugicm.adapters.triton": ["static/*"],
        "ugicm.runtime.commands.report": ["report.html"],
    },
    install_requires=["numpy>=1.26", *RANGE_CODER, "Pillow>=10.1", "rich>=13"],
    extras_require={
        # onnxruntime and onnxruntime-gpu overwrite each other: choose one.
        "cpu": ["onnxruntime>=1.22"],
        "gpu": ["onnxruntime-gpu[cuda,cudnn]>=1.22", CUDA],
        "webgpu": ["onnxruntime-webgpu>=1.27"],  # it too takes the place of onnxruntime
        "demo": ["scikit-image>=0.22"],
        "export": EXPORT,
        "train": TRAIN,
        "clip": [*TRAIN, *CLIP],
        "judges": ["ai-edge-litert>=2.1"],  # runs TFLite networks that judge pictures
        "fuzz": ["atheris>=3", "coverage>=7"],
        "tensorrt": ["tensorrt>=10.13", CUDA],
        "tensorrt-rtx": ["tensorrt-rtx-cu13>=1.7", CUDA],
        # Other people's programs, each with "cpu" or "gpu".
        "ray": ["ray[data]>=2.49"],
        "triton": ["tritonclient[http]>=2.40"],
        "torch": ["torch>=2.4"],
        "datasets": ["datasets>=3"],
        "webdataset": ["webdataset>=0.2.100"],
        "numcodecs": ["numcodecs>=0.13"],
        "test": [
            *TRAIN,
            *CLIP,
            CUDA,
            "numba>=0.61",  # the second range coder, everywhere
            # Builds engines without a GPU; there are wheels for these systems.
            "tensorrt-rtx-cu13>=1.7; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "webdataset>=0.2.100",
            "setuptools>=69",
            "wheel>=0.42",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.14",
        ],
    },
    entry_points={
        "console_scripts": ["ugicm=ugicm.__main__:main"],
        "numcodecs.codecs": ["ugicm=ugicm.adapters.numcodecs:Ugicm"],
    },
)
