"""`python -m hf_layerprune` is the command `hf-layerprune`."""

from hf_layerprune.cli.main import run

if __name__ == "__main__":
    run()
