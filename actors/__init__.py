"""Models, and what lies between them on the device: colour, crops, weights.

Nothing here imports Ray, so every model can be used without a cluster.
"""
