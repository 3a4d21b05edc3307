"""The Python API: a pretrained model, clips in, embeddings out."""
