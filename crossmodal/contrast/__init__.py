"""Contrastive losses, and the pools (batch, queue, bank) that negatives come from."""
