"""One file a command: what it computes from its options and writes, without a terminal."""
