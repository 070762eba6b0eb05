"""Which calls of a traced pass are batch normalisation: each layer stochastic, fixed with a reason, or refused."""
