"""The shared model folder."""

from tests.micro import model_folder

__all__ = ["model_folder"]
