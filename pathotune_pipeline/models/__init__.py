"""Models as people use them: a folder with a card, predictions with abstentions, external evaluation, heat maps."""

from pathotune_pipeline.models.card import ModelCard
from pathotune_pipeline.models.folder import Model, open_model
from pathotune_pipeline.models.recipe import FeatureRecipe
from pathotune_pipeline.models.train import ModelSpec, train_model

__all__ = ["FeatureRecipe", "Model", "ModelCard", "ModelSpec", "open_model", "train_model"]
