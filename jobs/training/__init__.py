"""Training of the bundle `tiny`: material, teachers, one module per network, and the evaluation."""
