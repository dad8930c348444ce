"""The logic of the workflow: plain values and arrays in, plain values and arrays out."""
