"""A URI, a card or a module → a network in eval mode, with the card that says what it expects and gives."""
