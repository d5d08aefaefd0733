"""The method of the paper, pure: tensors and numbers in, tensors and numbers out."""
