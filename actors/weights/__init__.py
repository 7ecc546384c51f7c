"""Weights: the catalog of models, bundles, downloads from the hub or a mirror, digests, file formats.

In: the name of a bundle or a YAML file. Out: resolved models with verified files, state dicts and built networks.
"""
