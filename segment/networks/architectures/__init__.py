"""Network architectures kept here, for weights that no library builds."""
