"""What the files of a checkpoint are called, here and in the published folders that use safetensors."""

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
