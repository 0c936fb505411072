"""The Hub: listings, ranged reads, downloads and their proof, and one line for whatever goes wrong."""
