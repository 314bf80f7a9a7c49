"""Training of flow models: samples, augmentation, loss, loop, evaluation."""
