"""Operations on pixels and boxes around the networks: color conversion, crops, geometry, HOG, suppression.

In: YUV planes, boxes and landmarks as tensors on the device. Out: tensors on the same device. No weights, no files.
"""
