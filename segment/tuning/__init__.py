"""Which setting to run for a budget of passes: samples of validation images, cross-validation, successive halving."""
