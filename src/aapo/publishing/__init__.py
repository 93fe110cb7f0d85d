"""What becomes of a trained model: one folder, a model card, the Hub."""

from aapo.publishing.card import model_card
from aapo.publishing.folder import merge_adapter, publish, push

__all__ = ["merge_adapter", "model_card", "publish", "push"]
