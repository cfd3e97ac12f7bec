"""ContextSSL, one readable module per idea.

Shapes, everywhere:

======  ==========================================================================
B       contexts (sequences) in a batch
K       pairs (x, a, y) in a context
T       tokens in a context, T = 2K: (x_1, a_1), y_1, ..., (x_K, a_K), y_K
F       width of an encoder feature
D       width of the transformer
E       width of an output embedding
A       size of an action
N       images
O, V    objects, and views of each of them
======  ==========================================================================

A context length counts tokens: 126 means 63 pairs (paper, appendix B.5).
"""
