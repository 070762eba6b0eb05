"""The CIFAR-10 experiment: log-likelihood against the number of draws."""
