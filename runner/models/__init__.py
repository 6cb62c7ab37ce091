"""Models of our own: a small head over an encoder, and encoders small enough to train from scratch."""
