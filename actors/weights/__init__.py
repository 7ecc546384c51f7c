"""Which models there are and where their bytes come from: catalog, bundles, the hub, mirrors, digests, file formats.

In: the name of a bundle or a YAML file. Out: resolved models with verified files, state dicts and built networks.
"""
