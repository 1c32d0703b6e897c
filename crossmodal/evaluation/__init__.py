"""Pure functions of embeddings, and what proves a transfer."""
