"""From video bytes to chunks of planar YUV 4:2:0, with frame numbers and times.

In: a clip's row and the frames wanted. Out: `Chunk`s, and Arrow tables of them for the flow (schema.FLOW).
"""
