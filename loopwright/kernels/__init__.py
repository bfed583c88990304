"""The operations of a decoder, each fused, with its way back: in C on a CPU that has a compiler, in torch elsewhere."""
