"""One model made of plug-in parts: mechanism, encoder, decoder, likelihood."""
