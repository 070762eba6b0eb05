"""The torch calls of one pass: what each depends on, how they are made again, and what follows from them."""
