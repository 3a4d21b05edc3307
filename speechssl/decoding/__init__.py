"""Decoding of speech recognisers: greedy and beam search, n-gram language models, forced alignment."""
