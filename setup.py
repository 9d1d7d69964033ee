"""Installs fmrifm, its data tools and its configs."""

from setuptools import find_namespace_packages, find_packages, setup

setup(
    name="fmrifm",
    version="0.1.0",
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
        "tensorboardX>=2.6",
        "threadpoolctl>=3.6",
        "tqdm>=4.66",
    ],
    extras_require={
        # A real resting-state run; only its files are read, the package is never imported.
        "demo": ["brainspace==0.3.0"],
        # Published models: to download them, and to read those that are PyTorch pickles.
        "hub": ["huggingface-hub>=0.34"],
        "torch": ["torch>=2.13"],
        # Published datasets: Arrow folders; files and stores on web servers and in buckets.
        "arrow": ["pyarrow>=26.0"],
        "remote": ["aiohttp>=3.14", "fsspec>=2026.9", "gcsfs>=2026.9", "s3fs>=2026.9"],
        # Sites taken out of a cohort's features.
        "combat": ["combatlearn>=2.3"],
        "test": [
            "aiohttp>=3.14",
            "combatlearn>=2.3",
            "datasets>=5.2",
            "distributed>=2025.1",
            "fsspec>=2026.9",
            "gcsfs>=2026.9",
            "huggingface-hub>=0.34",
            "hypothesis>=6.100",
            "libtpu>=0.0.52",
            "moto[server]>=5.2",
            "pyarrow>=26.0",
            "pytest>=8.4",
            "pytest-xdist>=3.6",
            "ruff>=0.15",
            "s3fs>=2026.9",
            "submitit>=1.5",
            "torch>=2.13",
            "webdataset>=1.0",
        ],
        "slurm": ["submitit>=1.5"],  # sweeps as jobs of a cluster
        "dask": ["distributed>=2025.1"],  # conversion spread over machines
        "tpu": ["jax[tpu]>=0.10.2"],
        "gpu": ["jax[cuda12]>=0.10.2"],
        "wandb": ["wandb>=0.19"],
    },
)
