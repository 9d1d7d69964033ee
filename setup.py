"""Installs fmrifm, its data tools and its configs."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

# fsspec and the file systems built on it are released together, and each admits only a few versions
# of the others; with wider ranges pip tries hundreds of combinations.
REMOTE = [
    "aiobotocore>=3.10,<3.11",
    "aiohttp>=3.14",
    "fsspec>=2026.9,<2026.10",
    "gcsfs>=2026.9,<2026.11",
    "s3fs>=2026.9,<2026.10",
]
EXTRAS = {
    # A real resting-state run; only its files are read, the package is never imported.
    "demo": ["brainspace==0.3.0"],
    # Published models: to download them, and to read those that are PyTorch pickles.
    "hub": ["huggingface-hub>=0.34"],
    "torch": ["torch>=2.13"],
    # Published datasets: Arrow folders; files and stores on web servers and in buckets.
    "arrow": ["pyarrow>=26.0"],
    "remote": REMOTE,
    "combat": ["combatlearn>=2.3"],  # removes site effects from the features of a cohort
    "slurm": ["submitit>=1.5"],  # sweeps as jobs of a cluster
    "dask": ["distributed>=2025.1"],  # conversion spread over machines
    "tpu": ["jax[tpu]>=0.10.2"],
    "gpu": ["jax[cuda12]>=0.10.2"],
    "wandb": ["wandb>=0.19"],
    # Tools of the tests, by what they test.
    "test-core": ["hypothesis>=6.100", "pytest>=8.4", "pytest-xdist>=3.6", "ruff>=0.15"],
    "test-s3": ["boto3>=1.43", "flask>=3.1", "flask-cors>=6.0", "moto[s3]>=5.2"],
    "test-published": ["datasets>=5.2,<5.3", "webdataset>=1.0,<1.1"],
    "test-tpu": ["libtpu>=0.0.52"],
}
# PyTorch is not among them: from most indexes it brings gigabytes of CUDA. The tests of .pth files
# are skipped without it, and CI installs its CPU build.
TESTED = ("arrow", "combat", "dask", "hub", "remote", "slurm")
TEST = [name for extra in EXTRAS if extra.startswith("test-") for name in EXTRAS[extra]]

setup(
    name="fmrifm",
    version=re.search(r'__version__ = "(.*)"', Path("fmrifm/__init__.py").read_text())[1],
    description="Foundation models of brain activity: masked autoencoders on cortical flat maps",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["fmrifm*", "data_tools*"])
    + find_namespace_packages(include=["configs*"]),
    package_data={
        "configs.splits": ["*.json"],
        "data_tools.spaces.data": ["*.npz", "README.md"],
        "data_tools.inspect": ["*.html"],
        "data_tools.reports": ["*.html"],
        "fmrifm": ["*.html", "py.typed"],
        "fmrifm.probe.cohort": ["*.html"],
    },
    # The lowest versions that were tested.
    install_requires=[
        "absl-py>=2.1",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "jax>=0.10.2",
        "jinja2>=3.1",
        "joblib>=1.5",
        "matplotlib>=3.10",
        "ml-collections>=1.1.0",
        "nibabel>=5.3",
        "nilearn>=0.14",
        "numpy>=2.3",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "safetensors>=0.7",
        "scikit-learn>=1.7",
        "scipy>=1.16",
        "tensorboard>=2.20",
        "threadpoolctl>=3.6",
        "tqdm>=4.66",
    ],
    entry_points={"console_scripts": ["fmrifm=fmrifm.__main__:main"]},
    extras_require={
        **EXTRAS,
        "test": sorted({*TEST, *(name for extra in TESTED for name in EXTRAS[extra])}),
    },
)
