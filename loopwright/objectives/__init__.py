"""Pure maths: tensors in, tensors out. No configuration, device, logging, file or process group."""
