"""What evaluate and sweep share: the methods compared, their scores, and the validation images."""
