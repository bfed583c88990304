"""What all our servers and clients share: tokens, listening, who is let in, what is read. It never reaches torch."""
