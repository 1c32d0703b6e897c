"""`crossmodal embed`: the embeddings of many files or pairs, in a file that a vector store reads."""
