"""Publishing: the model card and the way to the Hub and back."""
