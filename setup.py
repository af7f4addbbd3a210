"""The packages of the distribution; pyproject.toml has all else about it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["htcdaskgateway", "htcdaskgateway.*"]), "htcdaskgateway.templates"],
    # The templates lie at the top of the checkout, where a site's administrator looks for them.
    package_dir={"htcdaskgateway.templates": "templates"},
    package_data={
        "htcdaskgateway": ["htcdaskgateway.yaml", "py.typed"],
        "htcdaskgateway.remote": ["*.sh"],
        "htcdaskgateway.sites": ["*.yaml"],
        "htcdaskgateway.templates": ["*.j2"],
    },
)
