"""Samples in, forecast out. Everything here is pure: time comes with the samples."""
