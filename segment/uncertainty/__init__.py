"""Pure: moments over draws and the measures made of them."""
