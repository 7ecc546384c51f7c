"""How the bundle `tiny` is trained: material, teachers, one module per network, and the evaluation."""
