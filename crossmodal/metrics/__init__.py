"""Pure functions of embeddings: accuracies, retrieval, geometry, and training on few labels."""
